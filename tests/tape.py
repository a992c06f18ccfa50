"""What a GPU forbids and does, without one: a ban on the host, and graphs that are tapes."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from fedalign.network.graphs import Graphs

aten = torch.ops.aten
READS = {
    aten._local_scalar_dense.default: "reads a number",
    aten.equal.default: "reads a comparison",
    aten.is_nonzero.default: "reads a number",
    aten.nonzero.default: "has a shape that depends on values",
    aten.masked_select.default: "has a shape that depends on values",
    aten._unique2.default: "has a shape that depends on values",
    aten.lift_fresh.default: "makes a tensor of numbers of the host",
}


class HostBan(TorchDispatchMode):
    """Forbids what waits for a GPU or sends something to it, and counts operations.

    Attributes:
        launches: the names of the operations that compute something, in order.
    """

    def __init__(self):
        super().__init__()
        self.launches = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in READS:
            raise AssertionError(f"{func} {READS[func]}")
        if func in (aten.index.Tensor, aten.index_put_.default):
            by_mask = any(i is not None and i.dtype == torch.bool for i in args[1])
            assert not by_mask, f"{func} has a shape that depends on values"
        out = func(*args, **kwargs)
        devices = {t.device.type for t in tree_leaves((args, kwargs, out)) if _is_array(t)}
        assert len(devices) < 2, f"{func} copies between {devices}"
        if not func.is_view:
            self.launches.append(str(func))
        return out


def _is_array(value):
    """Return whether a value is a tensor; a number of the host in it is no copy."""
    return isinstance(value, torch.Tensor) and value.dim() > 0


class Tape(TorchDispatchMode):
    """Operations on fixed memory, as they were recorded; a replay knows nothing else.

    As in a CUDA graph, every number of the host is the one that was recorded.
    """

    def __init__(self, work):
        super().__init__()
        self._steps = []
        with self:
            work()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in READS:
            raise RuntimeError(f"operation not permitted when stream is capturing: {func}")
        out = func(*args, **kwargs)
        aliases = any(value.alias_info is not None for value in func._schema.returns)
        # As memory, not as tensors: a parameter may be pointed elsewhere later.
        kept = tree_map_only(torch.Tensor, torch.Tensor.detach, (args, kwargs, out))
        self._steps.append((func, *kept[:2], None if aliases else kept[2]))
        return out

    def replay(self):
        with torch.no_grad():
            for func, args, kwargs, out in self._steps:
                if func.is_view:
                    continue
                found = func(*args, **kwargs)
                places = [] if out is None else tree_leaves(out)
                for place, value in zip(places, tree_leaves(found), strict=False):
                    if isinstance(place, torch.Tensor):
                        place.copy_(value)


class Tapes(Graphs):
    """Graphs that are tapes.

    Attributes:
        tapes: how many steps were captured.
        replays: how often one was replayed.
    """

    def __init__(self, refuses=False):
        super().__init__()
        self.tapes, self.refuses = 0, refuses

    def _plainly(self, work):
        work()

    def _captured(self, work):
        if self.refuses:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.tapes += 1
        return Tape(work)
