"""CUDA's runtime as cupy binds it, at its latest: work waits in its stream until somebody waits for it.

Memory is real memory of this process, so addresses can be read and written. What is not given back is seen.
"""

import bisect
import ctypes
import threading
from collections import defaultdict


class Late:
    """The functions and constants that the backends use, and no others."""

    streamNonBlocking = 1
    eventDisableTiming = 2
    eventBlockingSync = 1
    streamCaptureModeThreadLocal = 1
    memcpyHostToDevice = 1
    memcpyDeviceToHost = 2
    memcpyDeviceToDevice = 3

    def __init__(self):
        self._here = threading.local()
        self.memory = {}
        self.pinned = {}
        self.streams = {0: []}
        self.done = defaultdict(int)
        self.events = {}
        self.graphs = {}
        self.capturing = {}
        self.launches = 0
        self.waits = 0
        self._number = 0

    def _next(self):
        self._number += 1
        return self._number

    def _used(self):
        assert getattr(self._here, "device", None) is not None, "setDevice comes first on each thread"

    # --- Devices and memory

    def getDeviceCount(self):
        return 2

    def getDeviceProperties(self, device):
        return {"major": 9, "minor": device}

    def setDevice(self, device):
        self._here.device = device

    def malloc(self, size):
        self._used()
        return self._allocated(self.memory, size)

    def free(self, ptr):
        self._used()
        del self.memory[ptr]

    def hostAlloc(self, size, flags):
        assert flags == 0
        return self._allocated(self.pinned, size)

    def freeHost(self, ptr):
        del self.pinned[ptr]

    @staticmethod
    def _allocated(kind, size):
        block = (ctypes.c_uint8 * size)(*([0xAB] * min(size, 1 << 16)))  # nobody's zeros
        kind[ctypes.addressof(block)] = block
        return ctypes.addressof(block)

    def _is_pinned(self, address):
        starts = sorted(self.pinned)
        at = bisect.bisect_right(starts, address) - 1
        return at >= 0 and address < starts[at] + len(self.pinned[starts[at]])

    def check_device(self, address, size):
        """A range within one allocation of the device's."""
        assert any(at <= address and address + size <= at + len(block) for at, block in self.memory.items()), (
            f"{size} bytes at {address} are not allocated"
        )

    # --- Streams

    def streamCreateWithFlags(self, flags):
        assert flags == 1
        handle = self._next()
        self.streams[handle] = []
        return handle

    def streamCreateWithPriority(self, flags, priority):
        assert abs(priority) == 100
        return self.streamCreateWithFlags(flags)

    def streamDestroy(self, stream):
        self._run(stream)
        del self.streams[stream]

    def streamSynchronize(self, stream):
        self._run(stream)

    def enqueue(self, stream, work):
        """What kernels do."""
        if stream in self.capturing:
            self.capturing[stream].append(work)
        else:
            self.streams[stream].append(work)

    def memcpyAsync(self, dst, src, size, kind, stream):
        device = src if kind == self.memcpyDeviceToHost else dst
        self.check_device(device, size)
        if kind == self.memcpyHostToDevice and not self._is_pinned(src):
            data = ctypes.string_at(src, size)  # staged before it returns
            self.enqueue(stream, lambda: ctypes.memmove(dst, data, size))
            return
        self.enqueue(stream, lambda: ctypes.memmove(dst, src, size))
        if kind == self.memcpyDeviceToHost and not self._is_pinned(dst):
            self._run(stream)

    def eventCreateWithFlags(self, flags):
        assert flags in (2, 3)
        event = self._next()
        self.events[event] = (0, 0)
        return event

    def eventDestroy(self, event):
        del self.events[event]

    def eventRecord(self, event, stream):
        self.events[event] = (stream, self.done[stream] + len(self.streams[stream]))

    def eventSynchronize(self, event):
        self.waits += 1
        self._run(*self.events[event])

    def streamWaitEvent(self, stream, event, flags=0):
        assert flags == 0
        other = self.events[event]
        self.enqueue(stream, lambda: self._run(*other))

    def _run(self, stream, until=None):
        waiting = self.streams[stream]
        while waiting and (until is None or self.done[stream] < until):
            work = waiting.pop(0)
            self.done[stream] += 1
            work()

    # --- Graphs

    def streamBeginCapture(self, stream, mode):
        assert mode == 1
        self.capturing[stream] = []

    def streamEndCapture(self, stream):
        graph = self._next()
        self.graphs[graph] = self.capturing.pop(stream)
        return graph

    def graphInstantiate(self, graph):
        executable = self._next()
        self.graphs[executable] = list(self.graphs[graph])
        return executable

    def graphLaunch(self, graphExec, stream):
        self.launches += 1
        self.streams[stream].extend(self.graphs[graphExec])

    def graphExecDestroy(self, graphExec):
        del self.graphs[graphExec]

    def graphDestroy(self, graph):
        del self.graphs[graph]

    def leftovers(self):
        """What was not given back."""
        return len(self.memory), len(self.pinned), len(self.streams) - 1, len(self.events), len(self.graphs)
