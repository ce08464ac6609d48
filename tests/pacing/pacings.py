"""What Hypothesis draws: every pacing function, with settings of every size."""

from hypothesis import strategies as st

from batchwright import pacing

shares = st.floats(1e-6, 1)
reaches = st.floats(1e-6, 2) | st.sampled_from([0.3, 0.5, 1.0])
powers = st.floats(0.01, 100) | st.sampled_from([0.5, 1, 2, 3])
moments = st.lists(st.floats(0, 1), max_size=5, unique=True).map(sorted).map(tuple)
progress = st.floats(0, 1.5) | st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7, 1.0])


@st.composite
def listed(draw):
    until = draw(moments)
    size = len(until) + 1
    return pacing.discrete(draw(st.lists(shares, min_size=size, max_size=size)), until=until)


GROWING = {
    "baby_step": st.builds(pacing.baby_step, st.integers(1, 1000), reach=reaches),
    "constant": st.builds(pacing.constant, shares),
    "difficulty_root": st.builds(
        pacing.difficulty_root, powers, start=shares, step=shares, reach=reaches
    ),
    "exponential": st.builds(pacing.exponential, start=shares, reach=reaches),
    "fixed_exponential": st.builds(
        pacing.fixed_exponential,
        start=shares,
        increase=st.floats(1.001, 1e9),
        step_length=reaches,
    ),
    "geometric": st.builds(pacing.geometric, start=shares, reach=reaches),
    "linear": st.builds(pacing.linear, start=shares, reach=reaches),
    "logarithmic": st.builds(pacing.logarithmic, start=shares, reach=reaches),
    "polynomial": st.builds(pacing.polynomial, powers, start=shares, reach=reaches),
    "root": st.builds(pacing.root, powers, start=shares, reach=reaches),
    "single_step": st.builds(pacing.single_step, start=shares, reach=reaches),
    "step": st.builds(pacing.step, start=shares, reach=reaches),
    "varied_exponential": st.builds(
        pacing.varied_exponential, moments, start=shares, increase=st.floats(1.001, 1e9)
    ),
}
"""Functions whose share never falls."""

FALLING = {"keep_rate": st.builds(pacing.keep_rate, st.floats(0, 0.999), reach=reaches)}

OTHER = {"discrete": listed()}

LENGTHS = {
    "length_warm_up": st.builds(
        lambda low, more, step, reach: pacing.length_warm_up(
            low, low + more, step=step, reach=reach
        ),
        st.integers(1, 512),
        st.integers(0, 5000),
        st.integers(1, 600),
        reaches,
    )
}

REACHING = (
    "difficulty_root",
    "exponential",
    "geometric",
    "linear",
    "logarithmic",
    "polynomial",
    "root",
    "single_step",
    "step",
)
"""Functions that begin with `start`, and end with everything at `reach`."""

SHARES = GROWING | FALLING | OTHER
ALL = SHARES | LENGTHS
