// The whole extension module as one unit.
#include "extension/objects.cc"
#include "extension/forms.cc"
#include "extension/server.cc"
#include "extension/batch.cc"
#include "extension/backend.cc"
#include "extension/plugin.cc"
#include "extension/module.cc"
