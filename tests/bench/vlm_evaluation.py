"""Multiple choice about pictures, beside batch-1 `generate` as public toolkits have it: a picture, a question, a reply.

Both sides read the same parquet; a reply is three tokens and the end token. In the laptop preset's size most of a call
is Python. In the larger one most of it is products, which are the same for both as long as every question has a picture
of its own, as nearly all of VMCBench's have; nine to a picture are the study's own benchmark.
"""

import contextlib
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet
import torch
from PIL import Image

from components.benchmark_vlm.params import Params
from components.core.data.conversation import IMAGE, prompt_tokens
from components.core.data.questions import LETTERS, vmcbench_prompt
from components.core.evaluation.multiple_choice import parse_reply
from components.core.models.vlm_files import read_vlm, save_vlm
from components.runtime.stage import run_stage
from components.runtime.storage import LocalFolder
from tests.bench.measure import Contender, NotEqual, compare, rounds
from tests.benchmark_vlm import vmcbench
from tests.manifests import commit

NUM_QUESTIONS, MAX_NEW_TOKENS, TRAINING_STEPS = 270, 16, 200
LAPTOP = {"width": 64, "image_size_px": 40, "tower_width": 64, "tower_depth": 4}
LARGER = {"width": 256, "depth": 2, "image_size_px": 80, "tower_width": 192, "tower_depth": 6}


def rows() -> None:
    """Prints a row per size, mode and number of questions about a picture."""
    for what, size, shared in (("laptop", LAPTOP, (1,)), ("larger", LARGER, (1, 9))):
        with tempfile.TemporaryDirectory() as directory:
            folder = LocalFolder(Path(directory, "vlm"))
            save_vlm(folder, vmcbench.model(**size, steps=TRAINING_STEPS))
            commit(folder, "VlmManifest", "train_vlm", summary={"arm": "clip", "replicate": 0})
            for per_picture in shared:
                _print(f"VLM {what}, {per_picture} to a picture", directory, per_picture)


def _print(what: str, directory: str, per_picture: int) -> None:
    """Prints both modes' rows, once all sides choose the same letters, and all of these."""
    questions = vmcbench.rows(NUM_QUESTIONS, seed=2, per_picture=per_picture)
    vmcbench.write(Path(directory, "questions.parquet"), questions)
    peer = Contender("transformers generate, batch 1", f"{__name__}:one_by_one", (directory,))
    ours = [Contender(mode, f"{__name__}:ours", (directory, mode)) for mode in ("score", "generate")]
    costs = rounds([*ours, peer])
    if set(costs[peer.name][0].found) != set(LETTERS):
        raise NotEqual(f"{what}: the model chooses {sorted(map(str, set(costs[peer.name][0].found)))} only")
    for contender in ours:
        compare(f"{what}, {contender.name}", costs[contender.name], costs[peer.name], peer.name)


def ours(directory: str, mode: str) -> Callable[[], list[str | None]]:
    """Prepares the stage, from files to files."""
    _warm(directory)

    def work() -> list[str | None]:
        with tempfile.TemporaryDirectory() as out, contextlib.redirect_stderr(io.StringIO()):
            given = {"vlm": f"{directory}/vlm", "questions": f"{directory}/questions.parquet", "out_uri": f"{out}/of"}
            given |= {"mode": mode, "max_new_tokens": str(MAX_NEW_TOKENS)}
            assert run_stage(Params, [f"--{name}={value}" for name, value in given.items()]) == 0
            lines = Path(out, "of", "answers.jsonl").read_text().splitlines()
            return [json.loads(line)["predicted"] for line in lines]

    return work


def one_by_one(directory: str) -> Callable[[], list[str | None]]:
    """Prepares a loop over questions, each with its picture encoded and its reply generated on its own."""
    _warm(directory)

    @torch.inference_mode()
    def work() -> list[str | None]:
        vlm = read_vlm(LocalFolder(Path(directory, "vlm")), torch.device("cpu"))
        language_model = vlm.language_model
        found = []
        for row in pyarrow.parquet.read_table(f"{directory}/questions.parquet").to_pylist():
            options = [row[letter] for letter in LETTERS]
            picture = Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")
            pixels_1CSS = torch.from_numpy(vlm.tower.prepare(picture))[None]
            picture_NE = vlm.projector(vlm.tower(pixels_1CSS))[0]
            prompt = vlm.template.ask(vmcbench_prompt(row["question"], options))
            ids = prompt_tokens(prompt, language_model.tokenizer)
            place = ids.index(IMAGE)
            before, after = (
                language_model.embed(torch.tensor(part).long()) for part in (ids[:place], ids[place + 1 :])
            )
            output = language_model.model.generate(
                inputs_embeds=torch.cat([before, picture_NE, after])[None],
                max_new_tokens=MAX_NEW_TOKENS,
                do_sample=False,
                eos_token_id=language_model.end_id,
                pad_token_id=language_model.end_id,
            )
            found.append(parse_reply(language_model.decode(output[0].tolist()).strip(), options))
        return found

    return work


def _warm(directory: str) -> None:
    """Imports and builds what each side needs once per process, which is no part of the work."""
    torch.set_num_threads(1)
    vlm = read_vlm(LocalFolder(Path(directory, "vlm")), torch.device("cpu"))
    pictures_BCSS = torch.zeros(1, 3, vlm.tower.image_size_px, vlm.tower.image_size_px, dtype=torch.uint8)
    prompt = vmcbench_prompt("Which?", vmcbench.COLOURS[:4])
    vlm.generate(vlm.features(pictures_BCSS), [prompt], 2)
    vlm.choose_letters(vlm.features(pictures_BCSS), [prompt], [vmcbench.COLOURS[:4]])
