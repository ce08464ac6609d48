"""Two ranks, one gradient: the check of real processes that is made in every run."""

from tests.torch.test_update_processes import Pair


# Not marked slow, though two processes may take longer than a second: whoever leaves slow tests
# out still sees ranks at work.
def test_two_ranks_have_the_gradient_of_one_batch(tmp_path):
    pair = Pair("copies", tmp_path, "few_gradients")
    for rank in pair("few_gradients"):
        assert rank["errors"] <= 1e-6
        assert rank["losses"] <= 1e-6
        assert rank["weights"] == [rank["weight"]]
    assert pair.codes == [0, 0]
