"""Candidate lists: drawn by hashing, the same for any order of rows, and kept in files that carry their hash."""

from __future__ import annotations

import hashlib
import json
import random

import pytest

from unifashion_pl.metrics.candidates import (
    CandidateLists,
    Catalogue,
    build_candidates,
    candidate_list,
    smallest,
)

ALL = ("fashiongen_100", "fashiongen_101_famevil", "fashiongen_groups100", "fashiongen_full")


def catalogue(n: int = 60, views: int = 2) -> Catalogue:
    products = {f"p{i}": (f"C{i % 2}", f"C{i % 2}S{i % 6}") for i in range(n)}
    return Catalogue({f"{p}v{v}": p for p in products for v in range(views)}, products)


class TestSampling:
    def test_worked_example(self, examples):
        case = examples["candidates"]
        products = {name: tuple(kind) for name, kind in case["products"].items()}
        assert hashlib.sha256(case["key_string"].encode()).hexdigest() == case["sha256"], "how an order is drawn"
        for draw in (0, 1):
            found, filled_in = candidate_list(products, case["query"], case["n"], "fashiongen_100", 7, draw, "i2t")
            assert found == case[f"negatives_draw{draw}"]
            assert filled_in == case["filled_from_outside"]
        assert smallest(products, 4, "fashiongen_100", 7, 0, "i2t", "query") == case["queries_i2t_draw0_n4"]
        rows = ["r1", "r2", "r3"]
        assert smallest(rows, 1, "fashiongen_100", 7, 0, "i2t", "view", "p12", "p12") == [case["view_of_p12"]]

    def test_groups(self, examples):
        case = examples["candidates"]
        products = {name: tuple(kind) for name, kind in case["products"].items()}
        shop = Catalogue({f"row-{p}": p for p in products}, products)
        lists = build_candidates(shop, "fashiongen_groups100", draws=1, seed=7, group=4)
        assert [list(trial.products) for trial in lists.trials] == case["groups_of_4"]
        assert lists.dropped == case["dropped"]

    def test_lists_do_not_depend_on_the_order_of_rows(self):
        shop = catalogue(150)
        rows, kinds = list(shop.product_of.items()), list(shop.kind_of.items())
        random.Random(0).shuffle(rows)
        random.Random(1).shuffle(kinds)
        shuffled = Catalogue(dict(rows), dict(kinds))
        for protocol in ALL[:3]:
            own = build_candidates(shop, protocol, 10, 2, seed=3, group=20)
            assert own.digest == build_candidates(shuffled, protocol, 10, 2, seed=3, group=20).digest
            assert own.digest != build_candidates(shop, protocol, 10, 2, seed=4, group=20).digest

    @pytest.mark.parametrize("protocol", ALL[:2])
    def test_trials_hold_what_the_protocol_says(self, protocol):
        shop = catalogue(800)
        lists = build_candidates(shop, protocol, 5, 2, seed=0)
        assert len(lists.trials) == 5 * 2 * 2
        others = 99 if protocol == "fashiongen_100" else 100
        for trial in lists.trials:
            many, one = (trial.products, trial.rows) if trial.direction == "i2t" else (trial.rows, trial.products)
            assert len(one) == 1
            assert len(many) == len(set(many)) == 1 + others
            own = shop.product_of[trial.rows[0]]
            assert own == trial.products[0]
            shown = list(trial.products[1:]) if trial.direction == "i2t" else [shop.product_of[r] for r in trial.rows[1:]]
            assert own not in shown
            assert trial.filled == 0
            assert {shop.kind_of[p] for p in shown} == {shop.kind_of[own]}

    def test_a_large_pool_is_drawn_in_another_order_and_says_so(self, tmp_path):
        shop = Catalogue(
            {f"p{i}v{v}": f"p{i}" for i in range(1100) for v in range(2)}, {f"p{i}": ("C", "S") for i in range(1100)}
        )
        for protocol in ALL[:2]:
            lists = build_candidates(shop, protocol, 3, 2, seed=1)
            assert lists.order == "mixed"
            for trial in lists.trials:
                own = shop.product_of[trial.rows[0]]
                others = trial.products[1:] if trial.direction == "i2t" else [shop.product_of[r] for r in trial.rows[1:]]
                assert own not in others
                assert len(others) == {"fashiongen_100": 99, "fashiongen_101_famevil": 100}[protocol]
            lists.save(tmp_path / "lists.json")
            assert CandidateLists.load(tmp_path / "lists.json") == lists

    def test_lists_of_small_pools_are_those_of_ever(self):
        """Numbers that were published under these lists have their hash in the protocol."""
        lists = build_candidates(catalogue(200, 3), "fashiongen_100", 20, 2)
        assert lists.order == "paired"
        assert lists.digest[:12] == "3f4663225999"

    def test_small_pools_are_filled_skipped_or_refused(self):
        shop = catalogue(120)
        lists = build_candidates(shop, "fashiongen_100", 4, 1)
        assert all(trial.filled == 99 - 19 for trial in lists.trials)
        inside = [p for p in lists.trials[0].products if shop.kind_of[p] == shop.kind_of[lists.trials[0].products[0]]]
        assert list(lists.trials[0].products[:20]) == inside
        skipped = build_candidates(shop, "fashiongen_100", 4, 1, small_pool="skip")
        assert (skipped.trials, skipped.dropped) == ([], 8)
        with pytest.raises(ValueError, match="only 19 candidates of its subcategory"):
            build_candidates(shop, "fashiongen_100", 4, 1, small_pool="error")

    def test_files_carry_their_hash(self, tmp_path):
        lists = build_candidates(catalogue(), "fashiongen_100", 3, 1)
        lists.save(tmp_path / "lists.json")
        again = CandidateLists.load(tmp_path / "lists.json")
        assert (again, again.digest) == (lists, lists.digest)
        data = json.loads((tmp_path / "lists.json").read_text())
        data["trials"][0][3].reverse()
        (tmp_path / "lists.json").write_text(json.dumps(data))
        with pytest.raises(ValueError, match="do not match their hash"):
            CandidateLists.load(tmp_path / "lists.json")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"seed": "0"}, r".*got `str` - at `\$.seed`"),
            ({"trials": [[0, "i2t", ["a"], "b", 0]]}, r"Expected `array`, got `str` - at `\$.trials\[0\]\[3\]`"),
            ({"trials": [[0, "i2t", ["a", "c"], ["b"], 0]]}, r"trials\[0\] is 'i2t' of 2 rows and 1 products"),
            ({"trials": [[0, "up", ["a"], ["b"], 0]]}, r"trials\[0\] is 'up'"),
            ({"trials": [[0, "both", [], [], 0]]}, r"trials\[0\] is 'both' of 0 rows"),
        ],
    )
    def test_files_of_another_form_are_refused_by_field(self, tmp_path, change, message):
        build_candidates(catalogue(), "fashiongen_100", 3, 1).save(tmp_path / "lists.json")
        data = json.loads((tmp_path / "lists.json").read_text())
        (tmp_path / "lists.json").write_text(json.dumps({**data, **change}))
        with pytest.raises(ValueError, match=rf"lists.json is not a file of candidate lists: {message}"):
            CandidateLists.load(tmp_path / "lists.json")
