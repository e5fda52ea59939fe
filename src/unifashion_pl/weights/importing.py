"""``unifashion weights import``: published checkpoints -> safetensors in our names with a report of every tensor, or nothing at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from unifashion_pl.arguments import choice
from unifashion_pl.files import follow_umask, replacing_folder, write_tensors
from unifashion_pl.parts.tensors import TENSORS
from unifashion_pl.weights import blip2, encoders, gguf, ldm, llm, lora, released
from unifashion_pl.weights.download import Download, open_download, recognise
from unifashion_pl.weights.ledger import Ledger, Report, compare
from unifashion_pl.weights.manifest import KINDS, QFORMER_KINDS, digest, licence_of, refuse_non_commercial

OURS = ("backbone.", "retrieval_head.", "caption_head.", "diffusion_head.")


def import_weights(
    path: str | Path,
    out: str | Path,
    *,
    kind: str | None = None,
    part: str | None = None,
    tower: str | Path | None = None,
    base: str | Path | None = None,
    commercial_only: bool = False,
    progress: bool = False,
) -> Report:
    """Convert a published checkpoint; the folder appears only when everything in it is accounted for.

    Args:
        path: file or folder as it was downloaded.
        out: folder to be made.
        kind: of :data:`~unifashion_pl.weights.manifest.KINDS`, None = recognise it.
        part: name of the manifest's part that it is, where its hash does not tell; its licence counts.
        tower: file of the vision tower, for BLIP-2 files that were saved without it.
        base: language model to which a LoRA is added; without it the LoRA is kept apart.
        commercial_only: refuse parts that the manifest does not know to be free for commercial use.
        progress: show bars.

    Returns:
        What was done, as in ``report.json``.

    Raises:
        FileNotFoundError: nothing there, or half a download.
        ValueError: ``out`` exists and is not empty, unknown kind, damaged or wrong file, anything unexplained, a licence that was refused.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists already: name a new folder, nothing is overwritten")
    source = open_download(path)
    chosen = choose_kind(source, kind)
    if tower is not None and chosen not in QFORMER_KINDS:
        raise ValueError(f"--tower belongs to BLIP-2 and models derived from it, not to {chosen}")
    if base is not None and chosen != "lora":
        raise ValueError(f"--base belongs to a LoRA, not to {chosen}")
    hashes = {file.name: digest(file, progress) for file in source.files}
    report = Report(chosen, str(path), hashes, licence_of(chosen, hashes, part))
    if commercial_only:
        refuse_non_commercial(chosen, hashes, part)
        for beside, its_kind in ((tower, "tower"), (base, "llm")):
            if beside is not None:
                refuse_non_commercial(its_kind, {f.name: digest(f, progress) for f in open_download(beside).files})
    with replacing_folder(out) as work, reading_as(chosen, path, tower, base):
        if base is not None:
            lora.merge_lora(source, Path(base), work, report)
        elif ours := {n: t for n, t in convert(source, report, work, tower).items() if n.startswith(OURS)}:
            write_tensors(work / TENSORS, ours)
        report.write(work)
        follow_umask(work)  # libraries that write tensors themselves make them private
    return report


@contextmanager
def reading_as(kind: str, path: str | Path, *beside: str | Path | None) -> Iterator[None]:
    """Inside the block tensors are sorted as those of a kind, by names and shapes that can be anything.

    Args:
        beside: other files that are read.

    Raises:
        OSError: as it is.
        ValueError: for all others, with a path.
    """
    try:
        yield
    except OSError:
        raise
    except KeyError as error:
        raise ValueError(f"{path} was read as {kind}, but {error} is missing: half a file or another architecture?") from error
    except Exception as error:
        if isinstance(error, ValueError) and any(str(name) in str(error) for name in (path, *beside) if name is not None):
            raise
        raise ValueError(f"{path} was read as {kind}, but its tensors are no such model's: {str(error)[:300]}") from error


def choose_kind(source: Download, kind: str | None) -> str:
    """
    Raises:
        ValueError: an unknown kind, nothing that was recognised, or a part that is not imported yet.
    """
    if kind is not None:
        return choice(kind, "kind", KINDS)
    if (found := recognise(source)) is None:
        example = ", ".join(list(source.tensors)[:3])
        raise ValueError(
            f"{source.path} is none of the known checkpoints ({example}, ...): see `unifashion weights list`, or name it with --as"
        )
    return found


def convert(
    source: Download, report: Report, folder: Path | None = None, tower: str | Path | None = None
) -> Mapping[str, Tensor]:
    """Account for every tensor of a source in ``report``.

    Args:
        folder: gets the parts that diffusers and transformers load; None = only check.

    Returns:
        The tensors under their new names.

    Raises:
        ValueError: anything unexplained, missing or misshapen.
    """
    if report.kind in QFORMER_KINDS:
        return _qformer(source, report, tower)
    if report.kind == "tower":
        return _tower(source, report)
    if report.kind == "encoder":
        return encoders.convert_encoder(source, folder, report)
    if report.kind == "llm":
        return llm.convert_llm(source, folder, report)
    if report.kind == "gguf":
        return gguf.convert_gguf(source, folder, report)
    if report.kind == "lora":
        return lora.map_lora(source, report)
    if report.kind == "vae":
        return ldm.convert_vae(source, folder, report)
    return (ldm.convert_pipeline if source.parts else ldm.convert_ldm)(source, folder, report)


def _qformer(source: Download, report: Report, tower: str | Path | None) -> Mapping[str, Tensor]:
    ledger = Ledger(source.tensors)
    rename = {"blip2-hf": blip2.map_hf, "unifashion": released.map_unifashion, "sprc": released.map_sprc}
    report.notes += rename.get(report.kind, blip2.map_lavis)(ledger) or []
    ledger.close(source.path, report)
    if report.kind == "blip2-hf" and source.config:
        report.settings = blip2.hf_settings(source.config)
        report.notes.append(
            f"ln_vision has LAVIS' epsilon of 1e-5; transformers' config has one for all of its tower, {report.settings['backbone.vision.eps']}"
        )
    else:
        report.notes.append(
            "heads do not show in tensors: the model's config says them (BLIP-2 has 12 in the Q-Former, 16 in the tower)"
        )
    if report.kind == "unifashion":  # the released code's U-Net and VAE are Stable Diffusion 1.5's
        report.settings = {"diffusion_head.denoiser.unet.prediction": "epsilon", "diffusion_head.vae.scale": 0.18215}
    tensors = dict(ledger.tensors)
    if tower is not None:
        tensors |= _tower_beside(tensors, tower, report)
    report.absent = blip2.check_blip2(tensors, str(source.path), released.BESIDE_BLIP2)
    released.check_adapters(tensors, str(source.path))
    llm.check_llama(tensors, str(source.path))
    report.use = "Use: init_from: FOLDER (the model has to be built with the file's sizes)"
    return tensors


def _tower_beside(tensors: Mapping[str, Tensor], tower: str | Path, report: Report) -> Mapping[str, Tensor]:
    if any(name.startswith(blip2.TOWER) for name in tensors):
        raise ValueError(f"{report.source} holds a vision tower of its own: leave --tower away")
    source = open_download(tower)
    report.sha256 |= {file.name: digest(file) for file in source.files}
    report.notes.append(f"the vision tower is from {tower}")
    return _map_tower(source, report)


def _tower(source: Download, report: Report) -> Mapping[str, Tensor]:
    tensors = _map_tower(source, report)
    compare(tensors, blip2.tower_reference(tensors), source.path)
    report.use = "Use: init_from: FOLDER, or --tower when BLIP-2 is imported"
    return tensors


def _map_tower(source: Download, report: Report) -> Mapping[str, Tensor]:
    ledger = Ledger(source.tensors)
    blip2.map_tower(ledger)
    ledger.close(source.path, report)
    return ledger.tensors
