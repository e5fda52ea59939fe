"""The orchestra: one Q-Former backbone, up to three heads, one step, one backward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.core.mixins.hparams_mixin import _given_hyperparameters
from torch import Tensor

from unifashion_pl import learned
from unifashion_pl.backbone import QFormerBackbone
from unifashion_pl.data.samples import Batch, EditBatch, PairBatch, TrainBatch, TripletBatch
from unifashion_pl.evaluation import Evaluator, Painter
from unifashion_pl.files import check_writable
from unifashion_pl.freezing import (
    apply_policy,
    check_left_out,
    counts,
    drop_unbuilt,
    find_policy,
    left_out,
    part_of,
)
from unifashion_pl.gallery.gallery import gallery_of
from unifashion_pl.inference.captions import caption
from unifashion_pl.inference.encode import compose, encode_image, encode_text
from unifashion_pl.inference.multi_vector import encoder
from unifashion_pl.inference.persons import design, try_on
from unifashion_pl.inference.pictures import generate
from unifashion_pl.memory import check_memory
from unifashion_pl.names import keep_names_plain, unknown
from unifashion_pl.optim import GroupSchedule, OptimSettings, build_optimizer
from unifashion_pl.parts.mapped import taken
from unifashion_pl.parts.rebuild import PARTS, blueprints
from unifashion_pl.sharding import blocks_of, reshard, shard, shards_of, unshard
from unifashion_pl.tasks import CaptionModule, DiffusionModule, RetrievalModule, TaskModule
from unifashion_pl.tasks.base import LossModule, add_heads
from unifashion_pl.weights.checkpoint import PretrainedMethods, load_weights


class UniFashionModule(LossModule, PretrainedMethods):
    """UniFashion (arXiv 2408.11305): a shared Q-Former with retrieval, caption and diffusion heads.

    A training step receives ``{stream: batch}``, or one batch. Pairs give the losses of phase 1, L_cross + L_ITG + L_q2I (Eq. 8); triplets those of
    phase 2, L_cir + L_ITG + L_q2I (Eq. 13); try-on samples L_q2I, and the losses on attention that
    :class:`~unifashion_pl.tasks.EditSettings` weighs. All are summed: one backward, so that plain DDP works.

    Args:
        backbone: vision tower, Q-Former and its queries.
        retrieval, caption, diffusion: the heads, built without a backbone; None leaves one out. They become the attributes
            ``retrieval_head``, ``caption_head`` and ``diffusion_head``.
        further: heads of somebody's own by name, attributes ``NAME_head``. They train under every policy; each is a loss family of its
            name, which ``loss_weights`` knows, and follows ``optim.further``.
        policy: what trains and which losses are computed, a name of :data:`unifashion_pl.freezing.POLICIES`.
        also_train: further parts, for models whose tower, LLM or text encoder are not pretrained.
        loss_weights: weight per loss family (``cross``, ``itg``, ``q2i``); missing ones are 1, as in the paper.
        optim: optimiser presets per side.
        evaluator: what is measured in validation and test.
        painter: what ``predict`` paints, and where to.
        init_from: where the weights come from before training (phase 2 starts from phase 1's): a run folder, a ``.ckpt``, a folder
            of :meth:`save_pretrained`, one of ``unifashion weights import``, or ``tiny``; of a list, the first that exists. A list inside
            the list is one source of several parts, e.g. the runs of phase 1's stages, a later one before an earlier one.
        compile_blocks: give the repeated layers of tower, Q-Former, LLM, U-Net and autoencoder to ``torch.compile`` when training begins, in place:
            names and checkpoints stay as they are, and equal layers are compiled once.
        float32_products: how float32 matrices are multiplied while it trains, of ``torch.set_float32_matmul_precision``: ``highest``,
            ``high`` (TF32 on a GPU) or ``medium``; None = as the process has it.
        leave_out: parts that checkpoints do not hold, because building the model loads them from published weights: ``vision``,
            ``llm``, ``vae``, ``clip_text``. They have to be frozen.

    Attributes:
        learned: tasks that optimiser steps were taken for, over all stages of its training (see :mod:`unifashion_pl.learned`); None = not
            known, as of a model that was built by hand.
        toy: whether this is the shipped toy, which knows drawings alone.
        training_seed: of its last training, as results name it; None = not known.
    """

    learned: frozenset[str] | None
    toy = False
    training_seed: int | None = None

    # what it does with a user's own images and texts
    encode_image = encode_image
    encode_text = encode_text
    compose = compose
    caption = caption
    generate = generate
    try_on = try_on
    design = design
    gallery = gallery_of
    encoder = encoder

    def __init__(
        self,
        backbone: QFormerBackbone,
        retrieval: RetrievalModule | None = None,
        caption: CaptionModule | None = None,
        diffusion: DiffusionModule | None = None,
        *,
        further: dict[str, TaskModule] | None = None,
        policy: str = "phase1_joint",
        also_train: Sequence[str] = (),
        loss_weights: dict[str, float] | None = None,
        optim: OptimSettings | None = None,
        evaluator: Evaluator | None = None,
        painter: Painter | None = None,
        init_from: str | list[str | list[str]] | None = None,
        compile_blocks: bool = False,
        float32_products: Literal["highest", "high", "medium"] | None = None,
        leave_out: Sequence[str] = (),
    ) -> None:
        super().__init__()
        keep_names_plain(self)
        if _given_hyperparameters.get() is not None:
            # Built from a config: the plain config is stored, and load_from_checkpoint needs no YAML. A module built by hand
            # would store deep copies of its parts instead.
            self.save_hyperparameters()
            self.hparams["init_from"] = None
        self.backbone = backbone
        self.retrieval_head = retrieval
        if retrieval is not None:
            retrieval.start_from(backbone)
        self.caption_head = caption
        self.diffusion_head = diffusion
        self.policy = policy
        self.without_loss = f"policy {policy!r} has no head for them"
        find_policy(policy)  # a wrong name is told before weights are read
        self.further = add_heads(self, further or {})
        self.loss_weights = {f: (loss_weights or {}).get(f, 1.0) for f in ("cross", "itg", "q2i", *self.further)}
        for family in set(loss_weights or {}) - set(self.loss_weights):
            raise ValueError(f"loss_weights: {unknown('loss family', family, self.loss_weights)}")
        self.optim = optim or OptimSettings()
        self.evaluator = evaluator or Evaluator()
        self.painter = painter or Painter()
        self.compile_blocks = compile_blocks
        self.float32_products = float32_products
        self.leave_out = tuple(leave_out)
        self.learned = learned.at_start(self) if self.hparams else None
        self._announced: frozenset[str] | None = None
        self._in_step: set[str] = set()
        if init_from:
            load_weights(self, init_from)
        self.trainable_names = apply_policy(self, policy, also_train, self.active_families)
        if diffusion is not None:
            diffusion.denoiser.cast_frozen()
        check_left_out(self)
        self._same_queries = self._targets_are_untrained()

    def __repr__(self) -> str:
        """What it is and how large its parts are; torch's tree of all layers is that of ``torch.nn.Module.__repr__(model)``."""
        if "trainable_names" not in vars(self):  # while it is being built
            return f"{type(self).__name__}()"
        told = "not known" if self.learned is None else ", ".join(sorted(self.learned)) or "nothing"
        lines = [f"learned: {told}", *(["the shipped toy, which knows drawings alone"] if self.toy else [])]
        return "\n  ".join([type(self).__name__, *lines, *UniFashionModule.describe_parameters(self).splitlines()])

    @property
    def active_heads(self) -> dict[str, TaskModule]:
        """Loss families that the policy names and those of further heads, if the head exists and the weight is not zero."""
        heads: dict[str, TaskModule | None] = {
            "cross": self.retrieval_head,
            "itg": self.caption_head,
            "q2i": self.diffusion_head,
        }
        heads |= {name: getattr(self, f"{name}_head") for name in self.further}
        named = (*find_policy(self.policy).losses, *self.further)
        wanted = [family for family in named if self.loss_weights[family] != 0]
        return {family: head for family in wanted if (head := heads[family]) is not None}

    @property
    def active_families(self) -> list[str]:
        """Loss families of :attr:`active_heads`."""
        return [*self.active_heads]

    def compute_losses(self, batch: TrainBatch) -> dict[str, Tensor]:
        """Named losses of one stream's batch, each multiplied by its family's weight."""
        batch = batch if self.diffusion_head is None else self.diffusion_head.prepare(batch)
        if not isinstance(batch, PairBatch | TripletBatch | EditBatch):
            raise TypeError(f"cannot train on a {type(batch).__name__}: try-on needs a diffusion head (`model.diffusion`)")
        encoding = self.backbone.encode(batch)
        losses: dict[str, Tensor] = {}
        for family, head in self.active_heads.items():
            found = head.losses(self.backbone, batch, encoding)
            own = f"{family}/" if family in self.further else ""
            losses |= {own + name: self.loss_weights[family] * loss for name, loss in found.items()}
            if found and not own:
                edits = None if self.diffusion_head is None else self.diffusion_head.editing.tasks
                self._in_step |= learned.taught(batch, [family], edits)
        return losses

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self.learned is not None:
            self.learned |= self._in_step
        self._in_step.clear()

    def configure_model(self) -> None:
        """Shard the model where the strategy asks for it (FSDP2, see :mod:`unifashion_pl.sharding`), if its memory can do."""
        if self._trainer is not None and self._trainer.training:  # without one it is being loaded
            ranks = 1 if self.device_mesh is None else self.device_mesh["data_parallel"].size()
            check_memory(self, self.trainer.strategy.root_device, ranks)
        if self.device_mesh is not None and not shards_of(self):
            shard(self, self.device_mesh["data_parallel"])

    @property
    def learning_rate(self) -> float:
        """The Q-Former's peak learning rate; set, it is that of all sides, as Lightning's learning rate finder tries them."""
        return self.optim.preset("qformer").lr

    @learning_rate.setter
    def learning_rate(self, rate: float) -> None:
        self.optim = self.optim.at(rate)
        schedules = () if self._trainer is None else [config.scheduler for config in self._trainer.lr_scheduler_configs]
        for schedule in schedules:
            if isinstance(schedule, GroupSchedule):
                schedule.set_peak(rate)

    def configure_optimizers(self) -> Any:
        untrained = self.trainer.limit_train_batches == 0  # Lightning estimates no end then
        return build_optimizer(self, self.optim, 0 if untrained else self.trainer.estimated_stepping_batches)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self.float32_products is not None:
            torch.set_float32_matmul_precision(self.float32_products)
        if self.compile_blocks:
            for block in blocks_of(self):
                block.compile()
        if self.trainer.is_global_zero:
            print(self.describe_parameters())

    def describe_parameters(self) -> str:
        """One line per part: trainable and frozen parameters."""
        found = counts(self)
        lines = [f"policy {self.policy}: losses {', '.join(self.active_families)}", f"{'part':<16}{'trains':>14}{'frozen':>14}"]
        lines += [f"{part:<16}{trains:>14,}{frozen:>14,}" for part, (trains, frozen) in found.items()]
        trains, frozen = (sum(c[i] for c in found.values()) for i in (0, 1))
        return "\n".join([*lines, f"{'all':<16}{trains:>14,}{frozen:>14,}"])

    def _targets_are_untrained(self) -> bool:
        """Whether the targets' queries never trained: they are a copy of the reference's, and this policy leaves them alone."""
        targets, references = getattr(self.backbone, "target_query_tokens", None), self.backbone.query_tokens
        if targets is None or targets.is_meta or any(part_of(name) == "target_queries" for name in self.trainable_names):
            return False
        return torch.equal(targets, references)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Lightning's. Queries of targets that never trained stay copies, so that phase 2 starts them where phase 1 brought the reference's."""
        super().optimizer_step(*args, **kwargs)
        if self._same_queries:
            with torch.no_grad():
                self.backbone.target_query_tokens.copy_(self.backbone.query_tokens)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Drop the parts that building the model restores; add what the others need to be built again."""
        state = checkpoint["state_dict"]
        if self.hparams:  # a model that was assembled by hand cannot be
            checkpoint[PARTS] = blueprints(self.modules())
        for name in left_out(self) & state.keys():
            del state[name]
        checkpoint[learned.KEY] = learned.stored(self.learned)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Lend the dropped parts to a checkpoint, so that everything else is still compared name by name.

        Heads that this model was built without are left out where nothing is trained further.
        """
        self._announced = learned.of_checkpoint(checkpoint)
        self.training_seed = learned.seed_of(checkpoint)
        if "state_dict" not in checkpoint:  # FSDP2 has loaded it already, see sharding
            learned.give(self, self._announced)
            return
        own, state = self.state_dict(), checkpoint["state_dict"]
        if self._trainer is None or not self.trainer.training:
            drop_unbuilt(self, state)
        state.update({name: own[name] for name in left_out(self) - state.keys()})

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As of any module; what the weights have :attr:`learned` is not known then, unless a checkpoint said so before."""
        learned.give(self, self._announced)
        self._announced = None
        return super().load_state_dict(state_dict if kwargs.get("assign") else taken(self, state_dict), *args, **kwargs)

    def _ready(self) -> None:
        """What every evaluation and painting begins with."""
        unshard(self)
        learned.say_if_random(self)

    def on_validation_epoch_start(self) -> None:
        self._ready()
        self.evaluator.start("validation", self.trainer.val_dataloaders, self.trainer.limit_val_batches)

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.evaluator.update(self, batch)

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        if self.trainer.sanity_checking:
            reshard(self)
            return
        metrics = self.evaluator.finish(None)
        self.log_dict({f"val/{name}": value for name, value in metrics.items()}, sync_dist=False, rank_zero_only=False)
        self.evaluator.log_samples(self.loggers, self.global_step)
        reshard(self)

    def on_test_epoch_start(self) -> None:
        check_writable(self._folder("test"), folder=True)
        self._ready()
        self.evaluator.start("test", self.trainer.test_dataloaders, self.trainer.limit_test_batches)

    def on_test_epoch_end(self) -> None:
        metrics = self.evaluator.finish(self._folder("test"))
        self.log_dict({f"test/{name}": value for name, value in metrics.items()}, sync_dist=False, rank_zero_only=False)
        reshard(self)

    def on_predict_epoch_start(self) -> None:
        self._ready()
        self.painter.start(self, self._folder("predict"))

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> list[dict[str, Any]]:
        return self.painter.paint(self, batch)

    def on_predict_epoch_end(self) -> None:
        path = self.painter.finish()
        if self.trainer.is_global_zero:
            print(f"painted: {path}")
        reshard(self)

    def _folder(self, name: str) -> Path:
        """Where results of a stage go: beside the learning curves, not over them."""
        folder = Path(self.trainer.log_dir or self.trainer.default_root_dir)
        return folder if folder.name == name else folder / name
