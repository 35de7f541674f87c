r"""The zero-one game on finitely many images, solved by enumeration.

The data are m distinct images, each with probability 1/m. A generator is a law on N images in all, a discriminator a set of images that it calls real. The discriminator's payoff is the probability that it is right,

.. math:: u(q, S) = \tfrac12 p(S) + \tfrac12 (1 - q(S))

and the generator wants it small. It is a zero-sum game, so that a saddle point is a pair from which neither gains by moving alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from fractions import Fraction

Law = tuple[Fraction, ...]
Set = frozenset[int]


def payoff(p: Law, q: Law, real: Set) -> Fraction:
    """How often the discriminator is right.

    Example:
        >>> half = Fraction(1, 2)
        >>> payoff((half, half, Fraction(0)), (Fraction(0), half, half), frozenset({0}))
        Fraction(3, 4)
    """
    half = Fraction(1, 2)
    return half * sum((p[i] for i in real), Fraction(0)) + half * (1 - sum((q[i] for i in real), Fraction(0)))


def best_set(p: Law, q: Law) -> Set:
    """The smallest set that is a best answer to q: where p > q."""
    return frozenset(i for i, (a, b) in enumerate(zip(p, q, strict=True)) if a > b)


def best_value(p: Law, q: Law) -> Fraction:
    """What the discriminator gets by its best answer: 1/2 + total variation / 2."""
    return payoff(p, q, best_set(p, q))


def total_variation(p: Law, q: Law) -> Fraction:
    """Half of the sum of differences."""
    return sum((abs(a - b) for a, b in zip(p, q, strict=True)), Fraction(0)) / 2


def empirical(images: Sequence[int], n: int) -> Law:
    """Each image as often as it is listed; duplicates count.

    Example:
        >>> empirical([0, 0, 1], 3)
        (Fraction(2, 3), Fraction(1, 3), Fraction(0, 1))
    """
    return tuple(Fraction(sum(i == k for i in images), len(images)) for k in range(n))


def laws(n: int, grain: int) -> Iterator[Law]:
    """Every law on n images whose probabilities are multiples of 1 / grain."""
    for cuts in itertools.combinations(range(grain + n - 1), n - 1):
        ends = (-1, *cuts, grain + n - 1)
        yield tuple(Fraction(b - a - 1, grain) for a, b in itertools.pairwise(ends))


def sets(n: int) -> Iterator[Set]:
    """Every set of images."""
    for k in range(n + 1):
        yield from map(frozenset, itertools.combinations(range(n), k))


def saddle_points(p: Law, grain: int) -> list[tuple[Law, Set]]:
    """Every pair of a law of that grain and a set from which neither player gains by a move of its own.

    The generator's moves are all laws of that grain, among which the point masses are the best answers to any set.
    """
    n = len(p)
    every = list(sets(n))
    found = []
    for q in laws(n, grain):
        best = best_value(p, q)
        for real in every:
            if payoff(p, q, real) != best:
                continue
            # the generator's best answer to a set: all of its mass inside it, or anything if the set is empty
            least = payoff(p, q, real) if not real else Fraction(1, 2) * sum((p[i] for i in real), Fraction(0))
            if payoff(p, q, real) == least:
                found.append((q, real))
    return found
