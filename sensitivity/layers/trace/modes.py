"""Global switches of torch that a forward pass may move, and that are moved back."""

from __future__ import annotations

import torch


class TorchModes:
    """Gradients, default dtype, attention's fast path, determinism and threads, as they are when this is made."""

    def __init__(self) -> None:
        self._grad = torch.is_grad_enabled()
        self._dtype = torch.get_default_dtype()
        self._fast_path = torch.backends.mha.get_fastpath_enabled()
        self._deterministic = torch.are_deterministic_algorithms_enabled()
        self._warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
        self._threads = torch.get_num_threads()

    def set(self) -> None:
        """Move every switch back that is elsewhere."""
        if torch.is_grad_enabled() != self._grad:
            torch.set_grad_enabled(self._grad)
        if torch.get_default_dtype() != self._dtype:
            torch.set_default_dtype(self._dtype)
        if torch.backends.mha.get_fastpath_enabled() != self._fast_path:
            torch.backends.mha.set_fastpath_enabled(self._fast_path)
        switches = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
        if switches != (self._deterministic, self._warn_only):
            torch.use_deterministic_algorithms(self._deterministic, warn_only=self._warn_only)
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
