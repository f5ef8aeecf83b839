"""The model card: what a bundle's description says, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

STATISTICS = {"local": "none over a window: seamless", "unet": "each window's own: blended"}


def write_card(about: Mapping[str, Any]) -> str:
    """Return the model card in Markdown.

    Args:
        about: The fields of `description.Description`.
    """
    parts = [
        _head(about),
        _data(about),
        _uses(about),
        _limits(about),
        _figures(about),
        _training(about),
        about.get("notes", "").strip(),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(about: Mapping[str, Any]) -> str:
    facts = {
        "scale": f"zoom {about['zoom']}, about {about['metres_per_pixel']} m per pixel",
        "version": about["version"],
        "precision": about["precision"],
        "statistics in a render": STATISTICS[about["kind"]],
        "licence of the weights": about["licence"],
        "attribution": about["attribution"] or "none",
        "sha256 of the weights": f"`{about['weights_sha256']}`",
    }
    if whole := about.get("integers"):
        facts["whole numbers"] = (
            f"specification {whole['specification']}, sha256 `{whole['sha256']}`: renders are the "
            "same on every machine"
        )
    rows = "\n".join(f"| {name} | {_cell(value)} |" for name, value in facts.items())
    return f"""# Model card: {about["name"]}

A `{about["kind"]}` generator of maptile2sat that turns maps of the style `{about["style"]}` into
satellite-style imagery. Its output is **synthetic**: it shows what could be there, not what is.

| | |
|---|---|
{rows}"""


def _data(about: Mapping[str, Any]) -> str:
    return f"""## Training data and its terms

Trained on {about["data"]}.
Terms: {about["licence"]}.

No picture of the training set is part of the bundle, but what the model paints is modelled on them:
who may use the weights for what depends on the terms of that imagery. For weights of your own, cut
pairs from imagery whose terms you know (open aerial photos, for example) and train on them:

    maptile2sat dataset build --map region.osm.pbf --image ortho.tif --out data/region
    maptile2sat train data/region --out runs/region
    maptile2sat export runs/region -o region"""


def _uses(about: Mapping[str, Any]) -> str:
    return """## Intended use

Illustration, games and simulators, placeholders for imagery that is missing, teaching, research on
synthetic imagery.

## Must not be used for

- Passing generated images off as real. Outputs carry the tag `SYNTHETIC=YES`: leave it there, and
  say so where a picture is shown.
- Evidence, news, navigation, planning, or any decision about a place or the people in it.
- Measuring: counts, areas, heights, change over time, or tests of detectors as if the images were
  real."""


def _limits(about: Mapping[str, Any]) -> str:
    # a U-Net is given no noise
    how = "anew with every" if about["kind"] == "local" else "the same whatever the"
    return f"""## Limits

- What the map does not say (roofs, trees, cars, colours) is invented, {how} `--seed`.
- Maps of another style, drawing or colour, and scales other than zoom {about["zoom"]} (about
  {about["metres_per_pixel"]} m per pixel), give poorer pictures; `render` warns.
- Every place looks like those of the training set: buildings, streets, vegetation, season and light
  are theirs."""


def _figures(about: Mapping[str, Any]) -> str:
    found = about.get("evaluation", {})
    if not found:
        plain = ", ".join(f"{name} {value:g}" for name, value in about.get("metrics", {}).items())
        return f"## Figures\n\nOn held-out pairs: {plain}." if plain else ""
    rows = "\n".join(
        f"| {_cell(figure['title'])} | {_number(figure['value'])} | {_number(figure['floor'])} "
        f"| {figure['better']} |"
        for figure in found["figures"].values()
    )
    return f"""## Figures

Measured on {found["pairs"]} pairs that it was not trained on, by

    {found["command"]}

"Real" is what real photos of other places score in place of generated ones. Distances pixel by
pixel (L1 and below) prefer blur, and are for comparison with the literature.

| figure | generated | real | better |
|---|---:|---:|---|
{rows}"""


def _training(about: Mapping[str, Any]) -> str:
    done = about.get("training", {})
    counts = ("crops_of_256_px", "steps", "of_steps", "pairs")
    known = isinstance(done.get("command"), str)
    if not known or not all(isinstance(done.get(name), int) for name in counts):
        return ""  # made by hand
    before = _earlier(done)
    earlier = "".join(
        f"    {run['command']}   # {run['steps']:,} steps, {run['crops_of_256_px']:,} crops\n"
        for run in before
    )
    crops = {True: 0, False: 0}
    for run in (*before, done):
        crops["--preset cleaner" in run["command"]] += run["crops_of_256_px"]
    whole, cleaner = crops[False], crops[True]
    more = (
        f"; the part that takes labels off maps\nsaw {cleaner:,} more by itself" if cleaner else ""
    )
    lead = "The last of these runs" if before else "The run"
    return f"""## How it was made

{earlier}    {done["command"]}
    maptile2sat export RUN -o {about["name"]}

It saw {whole:,} crops of 256 px or their equal, from {done["pairs"]:,} pairs{more}.
{lead} was over after {done["steps"]:,} of {done["of_steps"]:,} steps.{_by_hand(done)}"""


def _by_hand(done: Mapping[str, Any]) -> str:
    """Return what the scripts in `examples` did to the weights."""
    changes = []
    if isinstance(done.get("averaged"), dict):
        changes.append(f"{done['averaged'].get('share')} of an earlier stage mixed in")
    if isinstance(done.get("colours_told"), list):
        changes.append(f"colours added: {len(done['colours_told'])}")
    contrast, amount = (
        done.get(name, usual) for name, usual in (("contrast", 1), ("brightened", 0))
    )
    tones = [f"times {contrast}"] if contrast != 1 else []
    if amount != 0:
        tones.append(f"plus {amount}" if amount > 0 else f"less {-amount}")
    if tones:
        changes.append(f"colours {', '.join(tones)}, before the last tanh")
    if not changes:
        return ""
    return f"\nWithout training, by the scripts in `examples`: {'; '.join(changes)}."


def _earlier(done: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the runs that this one built on, but for what is noted wrongly."""
    runs = done.get("before")
    kinds = {"command": str, "steps": int, "crops_of_256_px": int}
    return [
        run
        for run in (runs if isinstance(runs, list) else [])
        if isinstance(run, dict)
        and all(isinstance(run.get(name), kind) for name, kind in kinds.items())
    ]


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
