"""The six RPCs of the shared-memory extension."""

from __future__ import annotations

from typing import Any

from ....schema.wire.generated import inference as pb


class SharedMemoryService(pb.GrpcInferenceServiceBase):
    """System and CUDA regions. Each method raises the Fault that the client gets. An empty name means all regions, but
    to register one."""

    _engine: Any

    async def system_shared_memory_status(
        self, message: pb.SystemSharedMemoryStatusRequest
    ) -> pb.SystemSharedMemoryStatusResponse:
        return pb.SystemSharedMemoryStatusResponse(
            regions={
                region.name: pb.SystemSharedMemoryStatusResponseRegionStatus(
                    name=region.name, key=region.key, offset=region.offset, byte_size=region.byte_size
                )
                for region in self._engine.shared_memory.system_status(message.name)
            }
        )

    async def system_shared_memory_register(
        self, message: pb.SystemSharedMemoryRegisterRequest
    ) -> pb.SystemSharedMemoryRegisterResponse:
        self._engine.shared_memory.register_system(message.name, message.key, message.offset, message.byte_size)
        return pb.SystemSharedMemoryRegisterResponse()

    async def system_shared_memory_unregister(
        self, message: pb.SystemSharedMemoryUnregisterRequest
    ) -> pb.SystemSharedMemoryUnregisterResponse:
        self._engine.shared_memory.unregister_system(message.name)
        return pb.SystemSharedMemoryUnregisterResponse()

    async def cuda_shared_memory_status(
        self, message: pb.CudaSharedMemoryStatusRequest
    ) -> pb.CudaSharedMemoryStatusResponse:
        return pb.CudaSharedMemoryStatusResponse(
            regions={
                region.name: pb.CudaSharedMemoryStatusResponseRegionStatus(
                    name=region.name, device_id=region.device_id, byte_size=region.byte_size
                )
                for region in self._engine.shared_memory.cuda_status(message.name)
            }
        )

    async def cuda_shared_memory_register(
        self, message: pb.CudaSharedMemoryRegisterRequest
    ) -> pb.CudaSharedMemoryRegisterResponse:
        handle = bytes(message.raw_handle)
        await self._engine.shared_memory.register_cuda(message.name, handle, message.device_id, message.byte_size)
        return pb.CudaSharedMemoryRegisterResponse()

    async def cuda_shared_memory_unregister(
        self, message: pb.CudaSharedMemoryUnregisterRequest
    ) -> pb.CudaSharedMemoryUnregisterResponse:
        await self._engine.shared_memory.unregister_cuda(message.name)
        return pb.CudaSharedMemoryUnregisterResponse()
