"""Metrics: torchmetrics classes over pure functions.

Each class collects rows keyed by id and gives the same result for any number of processes; each number it returns has a protocol
string and a result record. The functions under the classes can be used alone.
"""

from unifashion_pl.data.captions import LeakError as LeakError
from unifashion_pl.data.captions import check_provenance as check_provenance
from unifashion_pl.data.rewriting import negate as negate
from unifashion_pl.data.rewriting import paraphrase as paraphrase
from unifashion_pl.metrics.candidates import CandidateLists as CandidateLists
from unifashion_pl.metrics.candidates import Catalogue as Catalogue
from unifashion_pl.metrics.candidates import build_candidates as build_candidates
from unifashion_pl.metrics.candidates import candidate_list as candidate_list
from unifashion_pl.metrics.caption_scores import CaptionScores as CaptionScores
from unifashion_pl.metrics.caption_scores import score_captions as score_captions
from unifashion_pl.metrics.caption_scores import tokenize_captions as tokenize_captions
from unifashion_pl.metrics.coco.captions import bleu as bleu
from unifashion_pl.metrics.coco.captions import cider_d as cider_d
from unifashion_pl.metrics.coco.captions import rouge_l as rouge_l
from unifashion_pl.metrics.fashiongen import FashionGenRecall as FashionGenRecall
from unifashion_pl.metrics.fashioniq import FULL_QUERIES as FULL_QUERIES
from unifashion_pl.metrics.fashioniq import FashionIQRecall as FashionIQRecall
from unifashion_pl.metrics.image_scores import ImageScores as ImageScores
from unifashion_pl.metrics.images import ImageDistances as ImageDistances
from unifashion_pl.metrics.images import MeanImageScore as MeanImageScore
from unifashion_pl.metrics.images import clip_s as clip_s
from unifashion_pl.metrics.images import frechet_distance as frechet_distance
from unifashion_pl.metrics.images import kernel_distance as kernel_distance
from unifashion_pl.metrics.images import resize as resize
from unifashion_pl.metrics.images import ssim as ssim
from unifashion_pl.metrics.intervals import bootstrap_interval as bootstrap_interval
from unifashion_pl.metrics.intervals import cluster_standard_error as cluster_standard_error
from unifashion_pl.metrics.intervals import compare_paired as compare_paired
from unifashion_pl.metrics.intervals import exact_mcnemar as exact_mcnemar
from unifashion_pl.metrics.intervals import seed_summary as seed_summary
from unifashion_pl.metrics.intervals import wilson_interval as wilson_interval
from unifashion_pl.metrics.leaks import TextQuery as TextQuery
from unifashion_pl.metrics.leaks import bm25_scores as bm25_scores
from unifashion_pl.metrics.leaks import caption_audit as caption_audit
from unifashion_pl.metrics.leaks import check_audits as check_audits
from unifashion_pl.metrics.leaks import text_only_floor as text_only_floor
from unifashion_pl.metrics.protocol import Protocol as Protocol
from unifashion_pl.metrics.recall import Ranks as Ranks
from unifashion_pl.metrics.recall import RecallAtK as RecallAtK
from unifashion_pl.metrics.recall import exact_ranks as exact_ranks
from unifashion_pl.metrics.recall import recall_percent as recall_percent
from unifashion_pl.metrics.recall import token_scores as token_scores
from unifashion_pl.metrics.recall import two_way_ranks as two_way_ranks
from unifashion_pl.metrics.records import Interval as Interval
from unifashion_pl.metrics.records import ResultRecord as ResultRecord
from unifashion_pl.metrics.records import read_records as read_records
from unifashion_pl.metrics.records import write_records as write_records
from unifashion_pl.metrics.robustness import overlap_at as overlap_at
from unifashion_pl.metrics.robustness import product_ranks as product_ranks
from unifashion_pl.metrics.robustness import success_by_round as success_by_round
