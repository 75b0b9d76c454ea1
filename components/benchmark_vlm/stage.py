"""benchmark_vlm: a vision-language model sits a multiple-choice examination."""

import json
from collections.abc import Iterator, Sequence

import numpy
import torch
from safetensors.torch import load
from torch import Tensor

from components.benchmark_vlm.params import Params
from components.core.evaluation.multiple_choice import Question, parse_reply, read_questions, score_sheet
from components.core.models.encoder import device, device_name, load_encoder
from components.core.models.language_model import read_language_model
from components.core.models.projector import Projector
from components.core.models.vlm import VisionLanguageModel, square_picture
from components.runtime.errors import BadInput, Preempted
from components.runtime.stage import Outcome, Stage

BENCHMARK, ANSWERS, SCORES = "benchmark.parquet", "answers.jsonl", "scores.json"


def run(params: Params, stage: Stage) -> Outcome:
    """Asks every question, and writes each answer and the scores."""
    questions, pictures, picture_of = _questions(params, stage)
    vlm = _vlm(stage)
    pictures_BCSS = _stack(pictures, vlm.encoder.image_size_px)
    features_IND = _features(vlm, pictures_BCSS, params.batch_size)
    replies: list[str] = []
    with stage.progress(len(questions), "question") as bar, torch.inference_mode():
        for chosen in _batches(len(questions), params.batch_size):
            if stage.stopping():
                raise Preempted("answers are written at the end; the next run starts over")
            features_BND = features_IND[[picture_of[i] for i in chosen]].to(device())
            prompts = [questions[i].prompt() for i in chosen]
            if params.mode == "score":
                replies += vlm.choose_letters(features_BND, prompts, [questions[i].options for i in chosen])
            else:
                replies += vlm.generate(features_BND, prompts, params.max_new_tokens)
            bar.advance(len(chosen))
    predicted = [parse_reply(reply, question.options) for reply, question in zip(replies, questions, strict=True)]
    lines = [
        {
            "index": question.index,
            "category": question.category,
            "group": question.group,
            "answer": question.answer,
            "predicted": letter,
            "is_correct": letter == question.answer,
            "is_parsed": letter is not None,
            "reply": reply,
        }
        for question, letter, reply in zip(questions, predicted, replies, strict=True)
    ]
    stage.out.write(ANSWERS, "".join(json.dumps(line) + "\n" for line in lines).encode())
    about = {name: stage.inputs["vlm"].summary[name] for name in ("arm", "replicate")}
    sheet = score_sheet(questions, predicted, params.confidence)
    stage.out.write_json(SCORES, about | {"mode": params.mode} | sheet)
    return Outcome(
        kind="BenchmarkScores",
        files=[ANSWERS, SCORES],
        counts={"questions": len(questions), "pictures": len(pictures), "unparsed": predicted.count(None)},
        cost={"device": device_name()},
        summary=about | {"mode": params.mode},
        metrics={
            "micro": sheet["micro"]["accuracy"],
            "macro": sheet["macro"],
            "unparsed_rate": sheet["unparsed_rate"],
        }
        | {f"group_{name.replace(' & ', '_')}": scores["accuracy"] for name, scores in sheet["groups"].items()},
    )


def _questions(params: Params, stage: Stage) -> tuple[list[Question], list[Question], list[int]]:
    """Returns all questions, one question per distinct picture, and which picture each question is about."""
    manifest = stage.inputs["benchmark"]
    try:
        questions = read_questions(stage.folder("benchmark").read(BENCHMARK), manifest.summary.get("groups", {}))
    except FileNotFoundError as error:
        raise BadInput(f"--benchmark={params.benchmark} has no {BENCHMARK}: give build_shards' benchmark.") from error
    except ValueError as error:
        raise BadInput(f"--benchmark={params.benchmark}: {error}: mend the file or build it again.") from error
    numbers: dict[bytes, int] = {}
    pictures: list[Question] = []
    for question in questions:
        if question.image not in numbers:
            numbers[question.image] = len(pictures)
            pictures.append(question)
    return questions, pictures, [numbers[question.image] for question in questions]


def _vlm(stage: Stage) -> VisionLanguageModel:
    folder = stage.folder("vlm")
    encoder, _ = load_encoder(folder)
    language_model = read_language_model(folder, "language_model")
    projector = Projector(in_width=encoder.width, out_width=language_model.width, seed=0)
    projector.load_state_dict(load(folder.read("projector.safetensors")))
    return VisionLanguageModel(encoder, projector, language_model).to(device()).eval()


def _stack(pictures: Sequence[Question], size_px: int) -> Tensor:
    try:
        squares = [numpy.asarray(square_picture(question.picture(), size_px)) for question in pictures]
    except ValueError as error:
        raise BadInput(f"--benchmark: {error}: mend the file or build it again.") from error
    return torch.from_numpy(numpy.stack(squares)).permute(0, 3, 1, 2).contiguous()


def _features(vlm: VisionLanguageModel, pictures_BCSS: Tensor, batch_size: int) -> Tensor:
    """Returns the image tokens of every picture, computed once, however many questions are about it."""
    return torch.cat([vlm.features(part.to(device())).cpu() for part in pictures_BCSS.split(batch_size)])


def _batches(total: int, size: int) -> Iterator[range]:
    for start in range(0, total, size):
        yield range(start, min(total, start + size))
