"""benchmark_vlm: a vision-language model sits a multiple-choice examination."""

import hashlib
import itertools
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from components.benchmark_vlm.params import Params
from components.benchmark_vlm.parts import FOLDER, Part, Parts
from components.benchmark_vlm.picture_tokens import PictureTokens
from components.benchmark_vlm.question_files import QuestionFiles, Table, published_tables
from components.core.evaluation.multiple_choice import Question, parse_reply, score_sheet
from components.core.models.encoder import device, device_name
from components.core.models.vlm import VisionLanguageModel
from components.core.models.vlm_files import read_vlm
from components.runtime.errors import BadInput, Preempted
from components.runtime.stage import Outcome, Stage

BENCHMARK, ANSWERS, SCORES = "benchmark.parquet", "answers.jsonl", "scores.json"


def run(params: Params, stage: Stage) -> Outcome:
    """Asks every question that has no reply yet, and writes each answer and the scores."""
    files, groups = _files(params, stage)
    questions = files.questions(groups, params.other_group)
    vlm = _vlm(params, stage)
    lengths = _lengths(vlm, questions)
    _refuse_long(params, vlm, questions, lengths)
    asked_how = [stage.inputs["vlm"].digest, params.mode, params.max_new_tokens]
    kept = Parts(stage.out, questions)
    parts = kept.read(lengths, params.batch_size, asked_how)
    pool = ThreadPoolExecutor(params.num_reader_threads)
    try:
        tokens = PictureTokens(
            questions,
            files,
            parts,
            batch_size=params.batch_size,
            prepare=lambda picture: torch.from_numpy(vlm.tower.prepare(picture)),
            encode=lambda pictures_BCSS: vlm.features(pictures_BCSS.to(device())),
            pool=pool,
        )
        _answer(params, stage, vlm, questions, tokens, parts, kept)
    finally:
        pool.shutdown(cancel_futures=True)
    replies = [reply for part in parts for _, reply in sorted(part.replies.items())]
    predicted = [parse_reply(reply, question.options) for reply, question in zip(replies, questions, strict=True)]
    stage.out.write(ANSWERS, _lines(questions, replies, predicted))
    about = {name: stage.inputs["vlm"].summary[name] for name in ("arm", "replicate")} | {"mode": params.mode}
    sheet = score_sheet(questions, predicted, params.confidence)
    stage.out.write_json(SCORES, about | sheet)
    metrics = {"micro": sheet["micro"]["accuracy"], "macro": sheet["macro"], "unparsed_rate": sheet["unparsed_rate"]}
    stage.log("scored", mode=params.mode, questions=len(questions), **metrics)
    digest = hashlib.sha256("".join(question.digest() for question in questions).encode()).hexdigest()
    return Outcome(
        kind="BenchmarkScores",
        files=[ANSWERS, SCORES],
        counts={"questions": len(questions), "pictures": tokens.num_pictures, "unparsed": predicted.count(None)},
        cost={"device": device_name()},
        summary=about | {"questions": digest},
        metrics=metrics
        | {f"group_{name.replace(' & ', '_')}": scores["accuracy"] for name, scores in sheet["groups"].items()},
        scratch=FOLDER,
    )


def _files(params: Params, stage: Stage) -> tuple[QuestionFiles, dict[str, str]]:
    """Returns where the questions are, and the groups of their sets that the benchmark's manifest tells."""
    if params.questions.strip():
        return QuestionFiles(published_tables(params.questions.strip()), f"--questions={params.questions}"), {}
    folder, what = stage.folder("benchmark"), f"--benchmark={params.benchmark}"
    if not folder.exists(BENCHMARK):
        raise BadInput(f"{what} has no {BENCHMARK}: give build_shards' benchmark.")
    return QuestionFiles([Table(folder, BENCHMARK, "")], what), stage.inputs["benchmark"].summary.get("groups", {})


def _answer(
    params: Params,
    stage: Stage,
    vlm: VisionLanguageModel,
    questions: Sequence[Question],
    tokens: PictureTokens,
    parts: Sequence[Part],
    kept: Parts,
) -> None:
    """Completes the replies of all parts, keeping those of each part when it is done or the stage has to stop."""
    num_known = sum(len(part.replies) for part in parts)
    todo = [part for part in parts if part.open_batches()]
    if num_known:
        stage.log("continued", replies_kept=num_known, replies_missing=len(questions) - num_known)
    exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    with stage.progress(len(questions), "question") as bar, torch.inference_mode(), exact:
        bar.advance(num_known)
        for part in todo[:1]:
            tokens.start(part)
        for part, following in itertools.zip_longest(todo, todo[1:]):
            for _ in tokens.finish():
                if stage.stopping():
                    raise Preempted("the replies so far are kept")
            if following:
                tokens.start(following)
            for batch in part.open_batches():
                replies = _ask(params, vlm, [questions[number] for number in batch], tokens.take(batch))
                part.replies.update(zip(batch, replies, strict=True))
                bar.advance(len(batch))
                if stage.stopping():
                    kept.write(part)
                    raise Preempted("the replies so far are kept")
            kept.write(part)


def _ask(params: Params, vlm: VisionLanguageModel, questions: Sequence[Question], tokens_BND: Tensor) -> list[str]:
    """Returns the reply to each question; where scores are compared, it is the letter."""
    prompts = [question.prompt() for question in questions]
    if params.mode == "score":
        return vlm.choose_letters(tokens_BND.to(device()), prompts, [question.options for question in questions])
    return vlm.generate(tokens_BND.to(device()), prompts, params.max_new_tokens)


def _lengths(vlm: VisionLanguageModel, questions: Sequence[Question]) -> list[int]:
    """Returns how many tokens each question has with its picture, up to where the reply begins."""
    num_more = vlm.tower.num_tokens - 1  # the picture counts as one there
    return [len(vlm.tokens(question.prompt())) + num_more for question in questions]


def _refuse_long(
    params: Params, vlm: VisionLanguageModel, questions: Sequence[Question], lengths: Sequence[int]
) -> None:
    """Refuses questions that don't fit into the language model's context with their picture and the reply."""
    context = getattr(vlm.language_model.model.config, "max_position_embeddings", None)
    reply = params.max_new_tokens if params.mode == "generate" else 1
    longest = max(range(len(questions)), key=lambda number: lengths[number])
    if context is not None and lengths[longest] + reply > context:
        num_long = sum(length + reply > context for length in lengths)
        raise BadInput(
            f"--vlm={params.vlm}: {num_long} of {len(questions)} questions are longer than the {context} tokens of the "
            f"language model's context; with picture and reply, question {questions[longest].index} has "
            f"{lengths[longest] + reply}: leave such questions out, or train with another language model."
        )


def _vlm(params: Params, stage: Stage) -> VisionLanguageModel:
    try:
        return read_vlm(stage.folder("vlm"), device())
    except ValueError as error:
        raise BadInput(f"--vlm={params.vlm}: {error}.") from error


def _lines(questions: Sequence[Question], replies: Sequence[str], predicted: Sequence[str | None]) -> bytes:
    """Returns the answers, a line of JSON each, in the order of the questions."""
    lines = [
        {
            "index": question.index,
            "split": question.split,
            "category": question.category,
            "group": question.group,
            "answer": question.answer,
            "predicted": letter,
            "is_correct": letter == question.answer,
            "is_parsed": letter is not None,
            "reply": reply,
        }
        for question, reply, letter in zip(questions, replies, predicted, strict=True)
    ]
    return "".join(json.dumps(line) + "\n" for line in lines).encode()
