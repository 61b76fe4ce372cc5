// A repository agent: refuses models whose configuration does not carry its stamp, and brings a file to the others.

#include "checks.h"
#include "triton/core/tritonrepoagent.h"

#include <cstring>
#include <filesystem>
#include <fstream>

extern "C" TRITONSERVER_Error* TRITONREPOAGENT_ModelAction(
    TRITONREPOAGENT_Agent* agent, TRITONREPOAGENT_AgentModel* model, const TRITONREPOAGENT_ActionType action)
{
  if (action != TRITONREPOAGENT_ACTION_LOAD) {
    return nullptr;
  }
  TRITONREPOAGENT_ArtifactType type;
  const char *location, *name, *value, *folder;
  uint32_t count;
  TRY(TRITONREPOAGENT_ModelParameterCount(agent, model, &count));
  REQUIRE(count == 1, INVALID_ARG, "the stamping agent has one parameter: stamp");
  TRY(TRITONREPOAGENT_ModelParameter(agent, model, 0, &name, &value));
  REQUIRE(std::strcmp(value, "valid") == 0, INVALID_ARG, "the model's stamp is not valid");
  // A copy of the model, with one file more, takes its place.
  TRY(TRITONREPOAGENT_ModelRepositoryLocation(agent, model, &type, &location));
  TRY(TRITONREPOAGENT_ModelRepositoryLocationAcquire(agent, model, type, &folder));
  std::error_code failed;
  std::filesystem::copy(location, folder, std::filesystem::copy_options::recursive, failed);
  REQUIRE(!failed, INTERNAL, failed.message().c_str());
  TRITONSERVER_LogMessage(TRITONSERVER_LOG_INFO, __FILE__, __LINE__, "a valid stamp");
  std::ofstream(std::filesystem::path(folder) / "stamp.txt") << value;
  return TRITONREPOAGENT_ModelRepositoryUpdate(agent, model, type, folder);
}
