"""Result records: their fields, their files, and what is refused."""

from __future__ import annotations

import math

import pytest

from unifashion_pl.metrics.records import Interval, ResultRecord, read_records, write_records


class TestRecords:
    def test_fields_and_round_trip(self, tmp_path):
        fields = "metric value unit n n_expected protocol interval ties dropped seed data_hash weights_hash "
        fields += "implementation code_version commit wall_seconds dataset weights"
        record = ResultRecord(
            "mean/R@10", 53.7, "percent", 2009, "p", 2017, Interval(51.5, 55.9, 0.95, "wilson"), 3, {"bad jpg": 8}
        )
        assert set(record.to_dict()) == set(fields.split())
        assert ResultRecord.from_json(record.to_json()) == record
        other = ResultRecord("METEOR", None, "raw", 4, "coco").with_context(seed=1, code_version="0.1.0", draws=(0, 1))
        assert set(other.with_context(training_seed=3).to_dict()) - set(record.to_dict()) == {"draws", "training_seed"}
        write_records(tmp_path / "results.json", [record, other])
        assert read_records(tmp_path / "results.json") == [record, other]
        write_records(tmp_path / "results.json", [])
        assert read_records(tmp_path / "results.json") == []

    def test_bad_records_are_refused(self):
        with pytest.raises(ValueError, match="finite number or None"):
            ResultRecord("FID", math.nan, "raw", 1, "p")
        with pytest.raises(ValueError, match="unit of FID"):
            ResultRecord("FID", 1.0, "points", 1, "p")
        with pytest.raises(ValueError, match="unknown fields: colour"):
            ResultRecord.from_dict({**ResultRecord("FID", 1.0, "raw", 1, "p").to_dict(), "colour": 1})
        with pytest.raises(ValueError, match="result record: Object missing required field `value`"):
            ResultRecord.from_dict({"metric": "FID", "unit": "raw", "protocol": "p"})
