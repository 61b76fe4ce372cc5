"""One instance of an opened model, for a moment: what its `initialize` raises is a fault as any other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import trio

from ....engine.execute.task import close

if TYPE_CHECKING:
    from ....engine.port.backend import AsyncInstance, BackendModel, InstanceContext

CLOSE_S: Final = 10.0
"""For `finalize`; who takes longer is cut off."""


def try_instance(model: BackendModel, context: InstanceContext) -> None:
    """Opens it and closes it, without a request. Raises whatever opening raises. Blocking."""
    if getattr(model, "asynchronous", False):
        trio.run(_try_async, model, context)
    else:
        model.open_instance(context).close()


async def _try_async(model: Any, context: InstanceContext) -> None:
    raised: list[Exception] = []
    async with trio.open_nursery() as nursery:
        instance: AsyncInstance = model.open_instance(context)
        try:
            await instance.open(nursery)
        except Exception as error:  # by itself, not in a group
            raised.append(error)
        await close(instance, context.name, CLOSE_S)
        nursery.cancel_scope.cancel()
    if raised:
        raise raised[0]
