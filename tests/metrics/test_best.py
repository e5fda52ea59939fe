"""Lists of the best candidates, of one side and of both, over ranks."""

from __future__ import annotations

import torch

from unifashion_pl.metrics.best import best_lists, over_ranks, two_way_lists


def test_lists_keep_to_the_candidates_that_are_allowed() -> None:
    allowed = torch.tensor([[True, False, True, True]])
    (best,) = best_lists(torch.tensor([[0.1, 0.9, 0.3, 0.3]]), torch.zeros(1, 4, dtype=torch.bool), list("dcba"), 9, allowed)
    assert best.names == ["a", "b", "d"]


def test_lists_of_both_sides_are_those_of_the_whole_matrix_and_of_images_on_two_ranks() -> None:
    numbers = torch.Generator().manual_seed(0)
    tokens, vectors = torch.randn(30, 3, 4, generator=numbers), torch.randn(9, 4, generator=numbers)
    images, texts = torch.arange(30) % 9, torch.arange(9)
    scores, same = (tokens @ vectors.T).amax(1), images[:, None] == texts[None]
    names = [f"i{i:02d}" for i in range(30)], [f"t{i}" for i in range(9)]
    cpu = torch.device("cpu")
    by_image, among = two_way_lists(tokens, images, vectors, texts, (8, 4), cpu, names, 5)
    assert [b.names for b in by_image] == [b.names for b in best_lists(scores, same, names[1], 5)]
    wanted = [b.names for b in best_lists(scores.T, same.T, names[0], 5)]
    assert [b.names for b in over_ranks([among], 5)] == wanted
    parts = []
    for own in (slice(0, 11), slice(11, 30)):
        here = names[0][own], names[1]
        parts.append(two_way_lists(tokens[own], images[own], vectors, texts, (8, 4), cpu, here, 5)[1])
    assert [b.names for b in over_ranks(parts, 5)] == wanted
