"""Questions about the synthetic world."""

from collections import Counter

from components.core.data.questions import GROUP_OF_SET, GROUPS, LETTERS, SETS, ask, ask_all
from components.core.data.world import sample_scene


def test_a_question_is_a_pure_function_of_its_arguments() -> None:
    scene = sample_scene(0, 1)
    assert ask_all(scene, seed=2, index=1) == ask_all(scene, seed=2, index=1)
    assert ask_all(scene, seed=2, index=1) != ask_all(scene, seed=3, index=1)


def test_the_letter_points_at_the_right_answer() -> None:
    for index in range(200):
        scene = sample_scene(0, index)
        for question in ask_all(scene, seed=0, index=index):
            assert len(set(question.options)) == 4
            right = question.options[LETTERS.index(question.answer)]
            assert right == SETS[question.category].answer(scene)


def test_the_right_answer_is_at_each_letter_equally_often() -> None:
    num_scenes = 1200
    letters = Counter(ask(sample_scene(0, i), "WorldWord", seed=0, index=i).answer for i in range(num_scenes))
    assert all(abs(letters[letter] - num_scenes / 4) < 5 * (num_scenes * 3 / 16) ** 0.5 for letter in LETTERS)


def test_every_group_has_a_set() -> None:
    assert set(GROUP_OF_SET.values()) == set(GROUPS)


def test_prompts_have_the_form_of_vmcbench() -> None:
    scene = sample_scene(0, 3)
    question = ask(scene, "WorldStyle", seed=0, index=3)
    a, b, c, d = question.options
    assert question.prompt() == (
        f"Question: In which style is the {scene.object} drawn?\nOptions:\nA. {a}\nB. {b}\nC. {c}\nD. {d}\n"
        "Answer with the option's letter from the given choices directly.\n"
    )
