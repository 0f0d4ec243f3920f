from __future__ import annotations

import math

import pytest
import torch

from scribbleseg.methods import (
    attention_walk,
    dense_random_walk,
    embedding_affinity,
    transition_logits,
)


@pytest.fixture
def factors() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 3, 2, 5), (2, 3, 2, 5), (2, 4, 2, 5))
    return tuple(torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)


def test_logits_are_inner_products(factors) -> None:
    query, key, _ = factors
    logits = transition_logits(query, key)
    for i in range(10):
        for j in range(10):
            expected = (query[:, :, i // 5, i % 5] * key[:, :, j // 5, j % 5]).sum(1)
            torch.testing.assert_close(logits[:, i, j], expected)
    smaller = transition_logits(query, key[:, :, :1])
    torch.testing.assert_close(smaller, logits[:, :, :5])


def test_walk_equals_the_matrix_and_chunks_do_not_matter(factors) -> None:
    query, key, value = factors
    matrix = transition_logits(query, key).softmax(dim=2)
    expected = (matrix @ value.flatten(2).mT).mT.reshape(value.shape)
    for chunk_size in (None, 1, 3, 10, 99):
        inputs = [part.clone().requires_grad_() for part in factors]
        walked = attention_walk(*inputs, chunk_size=chunk_size)
        torch.testing.assert_close(walked, expected)
        gradients = torch.autograd.grad((walked**2).sum(), inputs)
        whole = [part.clone().requires_grad_() for part in factors]
        plain = attention_walk(*whole, chunk_size=None)
        for found, wanted in zip(
            gradients, torch.autograd.grad((plain**2).sum(), whole), strict=True
        ):
            torch.testing.assert_close(found, wanted)


def test_order_of_the_keys_does_not_matter(factors) -> None:
    query, key, value = factors
    order = torch.randperm(5, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        attention_walk(query, key[..., order], value[..., order]),
        attention_walk(query, key, value),
    )


def test_large_logits_stay_finite_in_half_precision() -> None:
    large = torch.full((1, 64, 2, 2), 60.0, dtype=torch.float16)
    logits = transition_logits(large, large)
    assert logits.dtype == torch.float32
    assert (logits == 64 * 60 * 60).all(), "16 bits end at 65,504"
    assert (attention_walk(large, large, large) == 60).all()
    with torch.autocast("cpu", torch.bfloat16):
        assert transition_logits(large.float(), large.float()).dtype == torch.float32


def naive_affinity(embedding: torch.Tensor, beta: float, power: float) -> torch.Tensor:
    flat = embedding.flatten(2)
    cosine = torch.nn.functional.cosine_similarity(flat[..., :, None], flat[..., None, :], dim=1)
    return torch.exp(beta * (cosine - 1)).mean(0) ** power


def test_embedding_affinity(factors) -> None:
    embedding = factors[0]
    affinity = embedding_affinity(embedding, beta=2, power=3)
    torch.testing.assert_close(affinity, naive_affinity(embedding, 2, 3))
    torch.testing.assert_close(embedding_affinity(5 * embedding, beta=2, power=3), affinity)
    torch.testing.assert_close(affinity, affinity.T)
    without = embedding_affinity(torch.zeros(1, 2, 2, 2), beta=2, power=3)
    torch.testing.assert_close(without, torch.full((4, 4), math.exp(-6)))


def test_dense_walk_equals_the_power_of_the_matrix(factors) -> None:
    affinity = embedding_affinity(factors[0], beta=2, power=3)
    scores = factors[2][0]
    transition = affinity / affinity.sum(0, keepdim=True)
    expected = scores.flatten(1) @ torch.linalg.matrix_power(transition, 16)
    walked = dense_random_walk(scores, affinity, num_steps=16)
    torch.testing.assert_close(walked.flatten(1), expected)
    assert torch.equal(dense_random_walk(scores, affinity, num_steps=0), scores)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(2))
    shuffled = dense_random_walk(
        scores.flatten(1)[:, order].reshape(scores.shape), affinity[order][:, order], num_steps=16
    )
    torch.testing.assert_close(shuffled.flatten(1), walked.flatten(1)[:, order])


def test_dense_walk_without_affinity_is_finite() -> None:
    assert torch.equal(
        dense_random_walk(torch.ones(1, 1, 2), torch.zeros(2, 2)), torch.zeros(1, 1, 2)
    )


def test_bad_input(factors) -> None:
    query, key, value = factors
    with pytest.raises(ValueError, match="query"):
        transition_logits(query, key[:1])
    with pytest.raises(ValueError, match="query"):
        attention_walk(query, key[:, :1], value)
    with pytest.raises(ValueError, match="value"):
        attention_walk(query, key, value[..., :2])
    with pytest.raises(ValueError, match="chunk_size"):
        attention_walk(query, key, value, chunk_size=0)
    with pytest.raises(ValueError, match="one view"):
        embedding_affinity(query[0])
    with pytest.raises(ValueError, match="resize the scores"):
        dense_random_walk(value[0], torch.ones(3, 3))
    with pytest.raises(ValueError, match="num_steps"):
        dense_random_walk(value[0], torch.ones(10, 10), num_steps=-1)
