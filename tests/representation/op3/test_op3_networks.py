"""Networks of the ensemble: layers beside torch's own, heads, bodies, and repetitions that do not see each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from perturbridge_dagster.representation.op3.members import MEMBERS, STAGE_ONE, STAGE_TWO, Member
from perturbridge_dagster.representation.op3.networks import (
    BatchNorm,
    CompoundInput,
    Linear,
    Network,
    Tokens,
    absolute_error,
    batches,
    fit,
    predict,
    row_rmse,
)

pytestmark = pytest.mark.slow

N_TOKENS, WIDTH = 9, 5


def compounds(mode: str) -> CompoundInput:
    """Tokens 0 and 1 are cell types, 8 is a compound without descriptor."""
    has = np.array([False, False, *[True] * 6, False])
    table = np.random.default_rng(0).normal(size=(N_TOKENS, 0 if mode == "none" else WIDTH)).astype(np.float32)
    table[~has] = 0
    return CompoundInput(mode, table, has if mode != "none" else np.zeros(N_TOKENS, dtype=bool))


def network(member: Member, mode: str = "none", *, n_repetitions: int = 2, faithful: bool = False, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return Network(member, compounds(mode), n_repetitions, 4, momentum=0.1, faithful=faithful)


def small(id_: str) -> Member:
    n_hidden = len(MEMBERS[f"{id_}a"].hidden)
    return Member(f"{id_}a", 4, 0.01, 3, (8, 7, 6, 5)[:n_hidden], (0.1, 0.2, 0.3, 0.4)[:n_hidden], 4)


TOKENS = Tokens(torch.tensor([0, 1, 0, 1, 0, 1, 0]), torch.tensor([2, 2, 3, 4, 5, 8, 8]))


def test_the_published_members_are_all_there():
    assert len(MEMBERS) == 20
    assert [weighted.member.id for weighted in STAGE_ONE] == ["1a", "2a", "3a", "5c", "6b", "7b", "8a"]
    assert [weighted.member.id for weighted in STAGE_TWO] == list(MEMBERS)
    assert {weighted.epochs for weighted in STAGE_TWO} == {200}
    for member in MEMBERS.values():
        assert len(member.hidden) == len(member.dropout) == {1: 2, 2: 2, 3: 4, 4: 3, 5: 2, 6: 2, 7: 4, 8: 3}[member.body]


@pytest.mark.parametrize("id_", "12345678")
@pytest.mark.parametrize("mode", ["none", "trainable", "fixed", "concat"])
def test_every_body_predicts_components_of_every_repetition(id_: str, mode: str):
    assert predict(network(small(id_), mode), TOKENS).shape == (2, len(TOKENS), 4)


def test_linear_and_batch_normalization_are_torchs_a_repetition():
    x = torch.randn(3, 10, 6)
    linear, norm = Linear(3, 6, 4), BatchNorm(3, 6, momentum=0.1)
    for repetition in range(3):
        of_torch = nn.Linear(6, 4)
        of_torch.weight.data = linear.weight[repetition].T
        of_torch.bias.data = linear.bias[repetition, 0]
        torch.testing.assert_close(linear(x)[repetition], of_torch(x[repetition]))
    own = [nn.BatchNorm1d(6, eps=1e-3, momentum=0.1) for _ in range(3)]
    for _ in range(3):
        x = torch.randn(3, 10, 6) * 2 + 1
        given = norm(x)
        for repetition, of_torch in enumerate(own):
            torch.testing.assert_close(given[repetition], of_torch(x[repetition]))
    norm.eval()
    for repetition, of_torch in enumerate(own):
        torch.testing.assert_close(norm.running_mean[repetition, 0], of_torch.running_mean)
        # torch keeps the variance with n - 1 in its divisor, Keras with n
        start = 0.9**3
        torch.testing.assert_close(norm.running_variance[repetition, 0] - start, (of_torch.running_var - start) * 0.9)


def test_losses_are_what_they_are_called():
    predicted, truth = torch.randn(2, 5, 3), torch.randn(2, 5, 3)
    for repetition in range(2):
        p, y = predicted[repetition].numpy(), truth[repetition].numpy()
        assert absolute_error(predicted, truth)[repetition].item() == pytest.approx(np.abs(p - y).mean(), rel=1e-5)
        assert row_rmse(predicted, truth)[repetition].item() == pytest.approx(np.sqrt(((p - y) ** 2).mean(axis=1)).mean(), rel=1e-5)
    perfect = torch.zeros(1, 2, 3, requires_grad=True)
    row_rmse(perfect, torch.zeros(1, 2, 3)).sum().backward()
    assert torch.isfinite(perfect.grad).all(), "the root has no slope at zero"
    assert [network(small(id_)).loss for id_ in "12345678"] == [absolute_error] * 4 + [row_rmse] * 4


@pytest.mark.parametrize(("n_rows", "sizes"), [(8, [4, 4]), (9, [4, 5]), (10, [4, 4, 2]), (3, [3]), (1, [1])])
def test_no_batch_has_a_single_row_unless_there_is_no_other(n_rows: int, sizes: list[int]):
    parts = batches(n_rows, 4)
    assert [part.stop - part.start for part in parts] == sizes
    assert np.concatenate([np.arange(n_rows)[part] for part in parts]).tolist() == list(range(n_rows))


def fitted(
    mode: str, *, targets: torch.Tensor | None = None, epochs: int = 3, member: str = "8"
) -> tuple[Network, dict[str, torch.Tensor]]:
    made = network(small(member), mode)
    before = {name: value.clone() for name, value in made.state_dict().items()}
    targets = torch.randn(2, len(TOKENS), 4) if targets is None else targets
    fit(made, TOKENS, targets, member=small(member), epochs=epochs)
    return made, before


@pytest.mark.parametrize(("mode", "moves"), [("trainable", True), ("fixed", False), ("concat", False)])
def test_only_trainable_descriptors_move(mode: str, *, moves: bool):
    made, before = fitted(mode)
    after = made.state_dict()
    assert torch.equal(before["head.descriptor.weight"], after["head.descriptor.weight"]) is not moves
    assert not torch.equal(before["head.joined.weight"], after["head.joined.weight"])
    if moves:
        moved = (before["head.descriptor.weight"] != after["head.descriptor.weight"]).any(dim=2)
        assert moved[0, [2, 3, 4, 5]].all()
        assert not moved[:, [0, 1, 6, 7, 8]].any(), "rows of no condition, and of a compound without descriptor"


def test_a_compound_without_descriptor_has_a_learned_vector_and_the_others_have_not():
    made, before = fitted("trainable")
    moved = (before["head.learned.weight"] != made.state_dict()["head.learned.weight"]).any(dim=2)
    assert moved[:, 8].all()
    assert not moved[:, :8].any()
    # what is predicted for it does not depend on the table of descriptors, and for the others it does
    first = predict(made, TOKENS)
    made.head.descriptor.weight.data += 1.0
    second = predict(made, TOKENS)
    torch.testing.assert_close(first[:, 5:], second[:, 5:])
    assert not torch.allclose(first[:, :5], second[:, :5])


def test_in_concat_a_compound_has_both():
    made, before = fitted("concat")
    assert (before["head.learned.weight"] != made.state_dict()["head.learned.weight"]).any(dim=2)[:, [2, 3, 4, 5, 8]].all()


def test_a_repetition_does_not_see_the_others():
    torch.manual_seed(1)
    targets = torch.randn(2, len(TOKENS), 4)
    other = targets.clone()
    other[1] = torch.randn(len(TOKENS), 4) * 100
    results = []
    for given in (targets, other):
        made = network(small("7"), seed=3)
        torch.manual_seed(4)
        fit(made, TOKENS, given, member=small("7"), epochs=4)
        results.append(predict(made, TOKENS))
    assert torch.equal(results[0][0], results[1][0])
    assert not torch.allclose(results[0][1], results[1][1])
    assert not torch.allclose(results[0][0], results[0][1]), "each has weights of its own"


def test_the_published_quirks_are_what_they_are_said_to_be():
    def rates(faithful: bool, id_: str) -> list[float]:
        return [layer.p for layer in network(small(id_), faithful=faithful).body if isinstance(layer, nn.Dropout)]

    assert rates(False, "6") == [0.1, 0.2]
    assert rates(True, "6") == [0.2, 0.2]

    def relus(faithful: bool) -> int:
        return sum(isinstance(layer, nn.ReLU) for layer in network(small("2"), faithful=faithful).body)

    assert (relus(False), relus(True)) == (2, 3)
    plain, twice = network(small("2")), network(small("2"), faithful=True)
    assert torch.equal(predict(plain, TOKENS), predict(twice, TOKENS)), "one ReLU after another changes no number"


def test_a_network_learns_what_can_be_learned():
    torch.manual_seed(0)
    member = Member("8a", 8, 0.01, 8, (32, 32, 16), (0.0, 0.0, 0.0), 4)
    tokens = Tokens(torch.arange(2).repeat_interleave(6), torch.arange(2, 8).repeat(2))
    truth = torch.randn(2, 12, 4)
    made = Network(member, compounds("none"), 2, 4, momentum=0.1, faithful=False)
    start = float(row_rmse(predict(made, tokens), truth).max())
    fit(made, tokens, truth, member=member, epochs=150)
    assert float(row_rmse(predict(made, tokens), truth).max()) < 0.4 * start
