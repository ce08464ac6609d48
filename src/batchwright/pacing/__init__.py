"""Pacing functions: how much of the data is eligible as training goes on. One a file.

Each is a frozen value that maps progress (consumed ÷ horizon of the curriculum) to a share of
the samples: `bw.pacing.root(p=2)(0.5)`. Below, u is progress over `reach` and s is `start`.

| Function | Share that is eligible | Source |
|---|---|---|
| `constant` | share | the control |
| `linear` | s + (1 − s)·u | Platanios 2019 |
| `root` | (s^p + (1 − s^p)·u)^(1/p) | Platanios 2019 |
| `polynomial` | s + (1 − s)·u^p | Wu 2021 |
| `exponential` | s + (1 − s)·(e^10u − 1)/(e^10 − 1) | Wu 2021 |
| `logarithmic` | s + (1 − s)·(1 + ln(u + e^−10)/10) | Wu 2021 |
| `step` | s + ⌊u⌋ | Wu 2021 |
| `single_step` | s, then 1 | Hacohen 2019 |
| `fixed_exponential` | s·increase^⌊u/step_length⌋ | Hacohen 2019 |
| `varied_exponential` | s·increase^(steps passed) | Hacohen 2019 |
| `geometric` | s^(1 − u) | CurML |
| `baby_step` | (⌊u·bins⌋ + 1)/bins | Bengio 2009, Spitkovsky 2010 |
| `discrete` | levels, each until its moment | DeepSpeed |
| `difficulty_root` | s + (1 − s)·u^(1/p), in steps | DeepSpeed |
| `keep_rate` | 1 − noise_rate·u | Co-teaching 2018 |
| `length_warm_up` | tokens of a sequence, in steps | Li 2022, Composer |

The file of `x` is `x_pacing.py`: a module `x` would hide the function.
"""

from batchwright.pacing.baby_step_pacing import baby_step
from batchwright.pacing.constant_pacing import constant
from batchwright.pacing.difficulty_root_pacing import difficulty_root
from batchwright.pacing.discrete_pacing import discrete
from batchwright.pacing.exponential_pacing import exponential
from batchwright.pacing.fixed_exponential_pacing import fixed_exponential
from batchwright.pacing.geometric_pacing import geometric
from batchwright.pacing.keep_rate_pacing import keep_rate
from batchwright.pacing.length_warm_up_pacing import length_warm_up
from batchwright.pacing.linear_pacing import linear
from batchwright.pacing.logarithmic_pacing import logarithmic
from batchwright.pacing.polynomial_pacing import polynomial
from batchwright.pacing.protocol import LengthPacing, Pacing
from batchwright.pacing.root_pacing import root
from batchwright.pacing.single_step_pacing import single_step
from batchwright.pacing.step_pacing import step
from batchwright.pacing.varied_exponential_pacing import varied_exponential

__all__ = [
    "LengthPacing",
    "Pacing",
    "baby_step",
    "constant",
    "difficulty_root",
    "discrete",
    "exponential",
    "fixed_exponential",
    "geometric",
    "keep_rate",
    "length_warm_up",
    "linear",
    "logarithmic",
    "polynomial",
    "root",
    "single_step",
    "step",
    "varied_exponential",
]
