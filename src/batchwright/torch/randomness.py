"""Random states, kept so that a window can be done again exactly as it was."""

from dataclasses import dataclass
from typing import Self

import torch


@dataclass(frozen=True, eq=False)
class RandomState:
    """The states of torch's generators on the devices of a model.

    Attributes:
        processor: State of the generator on the processor.
        devices: Device → state of its generator.
    """

    processor: torch.Tensor
    devices: dict[torch.device, torch.Tensor]

    @classmethod
    def capture(cls, model: torch.nn.Module) -> Self:
        """Keep the states of now."""
        # Going through all parameters takes longer than the rest of an update's bookkeeping.
        walk = model.parameters() if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
        on_gpu = {each.device for each in walk if each.device.type == "cuda"}
        states = {device: torch.cuda.get_rng_state(device) for device in on_gpu}
        return cls(torch.get_rng_state(), states)

    def restore(self) -> None:
        """Put the kept states back."""
        torch.set_rng_state(self.processor)
        for device, state in self.devices.items():
            torch.cuda.set_rng_state(state, device)
