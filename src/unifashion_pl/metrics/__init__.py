"""Metrics: torchmetrics classes over pure functions.

Each class collects rows keyed by id and gives the same result for any number of processes; each number it returns has a protocol
string and a result record. The functions under the classes can be used alone.
"""

from unifashion_pl.data.captions import LeakError, check_provenance
from unifashion_pl.data.rewriting import negate, paraphrase
from unifashion_pl.metrics.candidates import CandidateLists, Catalogue, build_candidates, candidate_list
from unifashion_pl.metrics.caption_scores import CaptionScores, score_captions, tokenize_captions
from unifashion_pl.metrics.coco.captions import bleu, cider_d, rouge_l
from unifashion_pl.metrics.fashiongen import FashionGenRecall
from unifashion_pl.metrics.fashioniq import FULL_QUERIES, FashionIQRecall
from unifashion_pl.metrics.image_scores import ImageScores
from unifashion_pl.metrics.images import ImageDistances, MeanImageScore, clip_s, frechet_distance, kernel_distance, resize, ssim
from unifashion_pl.metrics.intervals import (
    bootstrap_interval,
    cluster_standard_error,
    compare_paired,
    exact_mcnemar,
    seed_summary,
    wilson_interval,
)
from unifashion_pl.metrics.leaks import TextQuery, bm25_scores, caption_audit, check_audits, text_only_floor
from unifashion_pl.metrics.protocol import Protocol
from unifashion_pl.metrics.recall import Ranks, RecallAtK, exact_ranks, recall_percent, token_scores, two_way_ranks
from unifashion_pl.metrics.records import Interval, ResultRecord, read_records, write_records
from unifashion_pl.metrics.robustness import overlap_at, product_ranks, success_by_round

__all__ = [
    "FULL_QUERIES",
    "CandidateLists",
    "CaptionScores",
    "Catalogue",
    "FashionGenRecall",
    "FashionIQRecall",
    "ImageDistances",
    "ImageScores",
    "Interval",
    "LeakError",
    "MeanImageScore",
    "Protocol",
    "Ranks",
    "RecallAtK",
    "ResultRecord",
    "TextQuery",
    "bleu",
    "bm25_scores",
    "bootstrap_interval",
    "build_candidates",
    "candidate_list",
    "caption_audit",
    "check_audits",
    "check_provenance",
    "cider_d",
    "clip_s",
    "cluster_standard_error",
    "compare_paired",
    "exact_mcnemar",
    "exact_ranks",
    "frechet_distance",
    "kernel_distance",
    "negate",
    "overlap_at",
    "paraphrase",
    "product_ranks",
    "read_records",
    "recall_percent",
    "resize",
    "rouge_l",
    "score_captions",
    "seed_summary",
    "ssim",
    "success_by_round",
    "text_only_floor",
    "token_scores",
    "tokenize_captions",
    "two_way_ranks",
    "wilson_interval",
    "write_records",
]
