"""The certificate counts: what it proves, what it refuses to prove, what it calls a violation."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from guardian.core import events as ev
from guardian.core.certificate import REASONS, Verdict, certify
from guardian.core.spelling import spell
from tests.core.stories import (
    a_long_night,
    blind,
    created,
    failed,
    falling,
    finished,
    hello,
    killed,
    launched,
    logged,
    saved,
    steps,
    story,
    two_kills,
)


def placed(on, ranks):
    """The ranks' model on this device, in this precision."""
    return tuple(replace(rank, device=on[0], precision=on[1]) for rank in ranks)


def resumed_at_30(*after, loss=falling, **changed):
    """Killed at step 35, resumed from 30 by a job that `changed`, finished."""
    begin = {key: changed.pop(key) for key in ("split", "effective", "ranks", "steps_per_epoch") if key in changed}
    edits, on, first = changed.pop("edits", ()), changed.pop("on", (None, None)), changed.pop("first", 1)
    return story(
        launched(), placed(on, hello()), steps(first, 35), saved(30), killed(),
        launched(resume=30, edits=edits), placed(on, hello(step=30, **begin)), steps(31, 60, loss=loss, **changed),
        *after, finished(),
    )  # fmt: skip


def test_an_undisturbed_run_that_was_counted_is_proved():
    """Nothing ran twice, and nothing needed to."""
    certificate = certify(story(launched(), hello(), steps(1, 60), finished()))

    assert Verdict.PROVED is certificate.verdict
    assert (16, 60, 0, None) == (
        certificate.effective_batch,
        certificate.steps_counted,
        certificate.replayed_steps,
        certificate.largest_loss_difference,
    )


def test_two_kills_that_were_recovered_are_proved():
    """Five and seven steps ran twice; each step number counts once."""
    certificate = certify(two_kills())

    assert (Verdict.PROVED, 60, 12, 0.0) == (
        certificate.verdict,
        certificate.steps_counted,
        certificate.replayed_steps,
        certificate.largest_loss_difference,
    )


def test_an_accumulation_doubled_by_the_resume_is_a_violation():
    """The steps, what was counted and what should have been are named."""
    certificate = certify(resumed_at_30(split=(4, 8), rows=32))

    assert Verdict.VIOLATED is certificate.verdict
    assert ("32 rows instead of 16 were counted at steps 31-60 (attempt 2)",) == certificate.reasons
    assert certificate.effective_batch is None


def test_arguments_that_still_claim_the_old_batch_convince_nobody():
    """Transformers 4.x restores the old micro batch: the arguments say 16 while 32 rows enter forward."""
    assert Verdict.VIOLATED is certify(resumed_at_30(split=(4, 4), rows=32)).verdict


def test_a_sampler_shifted_by_the_resume_is_a_violation():
    """As many rows and nearly the same loss, but other samples: seen in the steps that ran twice."""
    certificate = certify(resumed_at_30(samples=1))

    assert Verdict.VIOLATED is certificate.verdict
    assert ("other samples at steps 31-35 when run again in attempt 2",) == certificate.reasons


def test_an_epoch_may_end_with_a_short_step():
    """The last rows of the data set do not fill a batch."""
    run = story(
        launched(), hello(steps_per_epoch=30), steps(1, 29), steps(30, 30, rows=5), steps(31, 35), saved(20), killed(),
        launched(resume=20), hello(step=20, steps_per_epoch=30), steps(21, 29), steps(30, 30, rows=5),
        steps(31, 59), steps(60, 60, rows=5), finished(),
    )  # fmt: skip

    assert (Verdict.PROVED, 16, 2) == (certify(run).verdict, certify(run).effective_batch, certify(run).short_steps)


def test_a_short_step_within_an_epoch_is_a_violation():
    """Only the end of an epoch explains missing rows."""
    run = story(launched(), hello(steps_per_epoch=30), steps(1, 28), steps(29, 29, rows=5), steps(30, 60), finished())

    assert ("5 rows instead of 16 were counted at step 29 (attempt 1)",) == certify(run).reasons


def test_a_step_with_too_many_rows_is_a_violation_even_at_the_end_of_an_epoch():
    """An epoch's last step has fewer rows or as many."""
    run = story(launched(), hello(steps_per_epoch=30), steps(1, 29), steps(30, 30, rows=17), finished())

    assert Verdict.VIOLATED is certify(run).verdict


def test_an_epoch_that_ends_with_other_rows_when_run_again_is_a_violation():
    """Both counts may end an epoch, but not the same one."""
    run = story(
        launched(), hello(steps_per_epoch=30), steps(1, 29), steps(30, 30, rows=5), saved(20), killed(),
        launched(resume=20), hello(step=20, steps_per_epoch=30), steps(21, 29), steps(30, 30, rows=6), steps(31, 59),
    )  # fmt: skip

    assert ("another number of rows at step 30 when run again in attempt 2",) == certify(run).reasons


def test_fewer_rows_are_a_doubt_where_nobody_knows_when_an_epoch_ends():
    """A stream has no length: unknown is not fine, and no false alarm."""
    run = story(launched(), hello(steps_per_epoch=None), steps(1, 29), steps(30, 30, rows=5), finished())

    assert Verdict.CONSISTENT is certify(run).verdict


def test_a_data_set_smaller_than_a_batch_is_proved_by_what_it_has():
    """Every step ends an epoch, and every step is short."""
    run = story(launched(), hello(steps_per_epoch=1), steps(1, 60, rows=10), finished())

    assert (Verdict.PROVED, 10) == (certify(run).verdict, certify(run).effective_batch)


def test_the_rows_of_two_ranks_are_added():
    """Eight rows on each make the sixteen; rows and samples do not care who had them."""
    run = story(
        launched(), hello(split=(4, 2), ranks=2), steps(1, 35, ranks=2), saved(30), killed(),
        launched(resume=30), hello(step=30, split=(2, 4), ranks=2), steps(31, 60, ranks=2), finished(),
    )  # fmt: skip

    assert (Verdict.PROVED, 16) == (certify(run).verdict, certify(run).effective_batch)


def test_a_rank_lost_by_the_resume_is_a_violation():
    """Half the ranks make half the batch."""
    run = story(
        launched(), hello(split=(4, 2), ranks=2), steps(1, 35, ranks=2), saved(30), killed(),
        launched(resume=30), hello(step=30, split=(4, 2), ranks=1), steps(31, 60, rows=8), finished(),
    )  # fmt: skip

    assert "8 rows instead of 16 were counted at steps 31-60 (attempt 2)" in certify(run).reasons


def test_a_job_that_claims_another_batch_is_believed_before_its_first_step():
    """Nothing is counted yet; it says itself that it is another training."""
    run = story(
        launched(), hello(), steps(1, 35), saved(30), killed(), launched(resume=30), hello(step=30, split=(4, 8))
    )

    assert (Verdict.VIOLATED, ("attempt 2 says its effective batch is 32, attempt 1 said 16",)) == (
        certify(run).verdict,
        certify(run).reasons,
    )


def test_counts_decide_where_claims_differ():
    """A job may describe its batch wrongly and still be the same."""
    assert Verdict.PROVED is certify(resumed_at_30(effective=32)).verdict


def test_a_job_with_other_rows_than_it_says_from_the_start_is_preserved_but_not_proved():
    """Preference pairs enter forward together: twice the rows, also without guardian."""
    certificate = certify(story(launched(), hello(), steps(1, 60, rows=32), finished()))

    assert (Verdict.CONSISTENT, 32) == (certificate.verdict, certificate.effective_batch)
    assert ("32 rows per step were counted where the job says 16",) == certificate.reasons


def test_a_job_without_a_fixed_number_of_rows_is_compared_by_its_replays_only():
    """Packed rows hold as many samples as fit."""

    def night(samples):
        """Two attempts of a job whose rows vary."""
        rows = {step: 40 + step % 7 for step in range(1, 61)}
        first = [steps(step, step, rows=rows[step]) for step in range(1, 36)]
        again = [steps(step, step, rows=rows[step], samples=samples) for step in range(31, 61)]
        return story(
            launched(), hello(), first, saved(30), killed(), launched(resume=30), hello(step=30), again, finished()
        )

    assert Verdict.CONSISTENT is certify(night(samples=0)).verdict
    assert Verdict.VIOLATED is certify(night(samples=1)).verdict


@pytest.mark.parametrize("companion, words", [(True, "no companion spoke"), (False, "started without a companion")])
def test_nothing_is_proved_without_a_companion(companion, words):
    """The log's numbers are claims."""
    certificate = certify(story(created(companion=companion), launched(), logged(1, 60), finished()))

    assert (Verdict.NOT_PROVABLE, 0, None) == (
        certificate.verdict,
        certificate.steps_counted,
        certificate.effective_batch,
    )
    assert words in certificate.reasons[0]


def test_a_companion_that_broke_says_why():
    """Its own words are the reason."""
    run = story(launched(), hello(), blind("companion of rank 0", "get_batch_samples: KeyError"), finished())

    assert ("rows were not counted: get_batch_samples: KeyError",) == certify(run).reasons


def test_an_attempt_whose_companion_was_silent_is_named():
    """The steps that survive from it were not counted."""
    run = story(
        launched(), logged(1, 35), saved(30), killed(), launched(resume=30), hello(step=30), steps(31, 60), finished()
    )

    assert (Verdict.CONSISTENT, ("steps 1-30 of attempt 1 were not counted: its companion did not speak",)) == (
        certify(run).verdict,
        certify(run).reasons,
    )


def test_a_gap_between_two_attempts_is_named():
    """The resume went on beyond what was seen."""
    run = story(
        launched(), hello(), steps(1, 35), saved(40), killed(), launched(resume=40), hello(step=40), steps(41, 60)
    )

    assert ("steps 36-40 of attempt 1 were not counted",) == certify(run).reasons


def test_steps_that_were_run_again_may_have_gone_uncounted_the_first_time():
    """What does not survive needs no proof."""
    run = story(
        launched(), hello(), steps(1, 30), logged(31, 35), saved(30), killed(),
        launched(resume=30), hello(step=30), steps(31, 60), finished(),
    )  # fmt: skip

    assert Verdict.PROVED is certify(run).verdict


def test_steps_before_the_first_attempt_are_not_guardians():
    """The user resumed by himself."""
    certificate = certify(story(launched(), hello(step=100, max_steps=160), steps(101, 160), finished()))

    assert (Verdict.PROVED, 60) == (certificate.verdict, certificate.steps_counted)


def test_a_step_that_a_rank_did_not_count_is_a_doubt():
    """Half a sum is no count."""
    run = story(launched(), hello(), steps(1, 29), steps(30, 30, rows=None), steps(31, 60), finished())

    assert ("a rank did not count its rows at step 30 (attempt 1)",) == certify(run).reasons


def test_ranks_that_share_their_rows_cannot_be_added():
    """Tensor parallel ranks see the same rows."""
    run = story(launched(), hello(ranks=2, data_parallel=1), steps(1, 60, ranks=2, rows=32), finished())

    assert Verdict.CONSISTENT is certify(run).verdict


# --- losses of the steps that ran twice -------------------------------------------------------------------------


def test_a_loss_that_is_equal_but_for_rounding_is_proved():
    """The largest difference is told."""
    certificate = certify(resumed_at_30(loss=lambda step: falling(step) + (5e-5 if step == 33 else 0)))

    assert Verdict.PROVED is certificate.verdict
    assert math.isclose(5e-5, certificate.largest_loss_difference, rel_tol=1e-6)


def test_another_loss_for_the_same_samples_is_a_violation():
    """The weights or the optimizer are not those that were saved."""
    certificate = certify(resumed_at_30(loss=lambda step: falling(step) + (0.01 if step >= 32 else 0)))

    assert (Verdict.VIOLATED, ("another loss at steps 32-35 when run again in attempt 2",)) == (
        certificate.verdict,
        certificate.reasons,
    )


def test_dropout_explains_a_small_difference_when_the_batch_was_split_differently():
    """Other masks, same samples: not a proof, not a violation."""
    certificate = certify(resumed_at_30(split=(2, 8), loss=lambda step: falling(step) + 1.4e-3))

    assert Verdict.CONSISTENT is certificate.verdict
    assert "the batch was split differently, which changes dropout" in certificate.reasons[0]


def test_dropout_does_not_explain_a_large_difference():
    """A twentieth of the loss is more than masks do."""
    assert Verdict.VIOLATED is certify(resumed_at_30(split=(2, 8), loss=lambda step: falling(step) + 0.5)).verdict


def test_an_edit_that_may_change_the_experiment_explains_another_loss_but_no_other_samples():
    """The policy allowed a lower learning rate; it allowed no other data."""
    lower = ev.Edit("learning_rate", "1e-4", "5e-5", "changing")

    assert Verdict.CONSISTENT is certify(resumed_at_30(edits=(lower,), loss=lambda step: falling(step) + 0.5)).verdict
    assert Verdict.VIOLATED is certify(resumed_at_30(edits=(lower,), samples=1)).verdict


def test_a_loss_that_is_not_a_number_equals_itself_only():
    """NaN before and after is the same training; NaN on one side is not."""
    nan = story(
        launched(), hello(), steps(1, 35, loss=math.nan), saved(30), killed(),
        launched(resume=30), hello(step=30), steps(31, 60, loss=math.nan), finished(),
    )  # fmt: skip

    assert (Verdict.PROVED, 0.0) == (certify(nan).verdict, certify(nan).largest_loss_difference)
    assert Verdict.VIOLATED is certify(resumed_at_30(loss=math.nan)).verdict
    assert certify(resumed_at_30(loss=math.nan)).largest_loss_difference is None


BAND = 0.0727
"""Of `falling`: how much it usually changes from a step to the next."""


@pytest.mark.parametrize("on", [("cuda", "float32"), ("cuda", "bfloat16"), ("cpu", "bfloat16"), ("cpu", "float16")])
def test_where_no_loss_repeats_exactly_it_has_to_lie_in_the_runs_own_band(on):
    """On a GPU, and in 16 bits: samples and rows prove, the loss as near as two neighbouring steps; the band is told."""
    certificate = certify(resumed_at_30(on=on, loss=lambda step: falling(step) + 0.01))

    assert Verdict.PROVED is certificate.verdict
    assert math.isclose(BAND, certificate.loss_band, rel_tol=0.01)
    assert "equal in samples and rows" in certificate.reasons[1]
    assert f"band of {certificate.loss_band:.2g} ({on[1]} on {on[0]} repeats no loss exactly)" in certificate.reasons[1]


@pytest.mark.parametrize("on", [("cpu", "float32"), ("cpu", None), (None, None)])
def test_where_losses_repeat_there_is_no_band(on):
    """Float32 on the CPU, and a companion that does not tell."""
    certificate = certify(resumed_at_30(on=on, loss=lambda step: falling(step) + 0.01))

    assert (Verdict.VIOLATED, None) == (certificate.verdict, certificate.loss_band)


def test_a_loss_outside_the_band_is_a_doubt_and_one_far_outside_a_violation():
    """By chance a step lies outside; three bands away the weights are others."""
    near = certify(resumed_at_30(on=("cuda", "bfloat16"), loss=lambda step: falling(step) + 2 * BAND))
    far = certify(resumed_at_30(on=("cuda", "bfloat16"), loss=lambda step: falling(step) + 6 * BAND))
    lost = certify(resumed_at_30(on=("cuda", "bfloat16"), loss=lambda step: math.nan if step == 33 else falling(step)))

    assert (Verdict.CONSISTENT, Verdict.VIOLATED, Verdict.VIOLATED) == (near.verdict, far.verdict, lost.verdict)
    assert "a little outside the run's own step-to-step band of 0.0" in near.reasons[0]
    assert ("another loss at steps 31-35 when run again in attempt 2",) == far.reasons


def test_other_samples_are_a_violation_whatever_the_band():
    """The proof there is the samples."""
    assert Verdict.VIOLATED is certify(resumed_at_30(on=("cuda", "bfloat16"), samples=1)).verdict


def test_a_loss_within_a_band_proves_nothing_by_itself():
    """Other samples would give one like it: without samples it is no proof there."""
    certificate = certify(resumed_at_30(on=("cuda", "bfloat16"), samples=None))

    assert (Verdict.CONSISTENT, 0) == (certificate.verdict, certificate.replayed_steps)
    assert "neither samples nor an exact loss" in certificate.reasons[0]


def test_a_band_is_not_made_of_a_handful_of_steps():
    """Nobody knows then how much the loss changes anyway."""
    certificate = certify(resumed_at_30(on=("cuda", "bfloat16"), first=29, loss=lambda step: falling(step) + 0.01))

    assert (Verdict.CONSISTENT, None) == (certificate.verdict, certificate.loss_band)
    assert any("too few steps had run" in one for one in certificate.reasons)


def test_samples_alone_or_losses_alone_can_prove_a_replay():
    """A killed job takes the last loss with it; a trainer may hide its samples."""
    assert Verdict.PROVED is certify(resumed_at_30(loss=None)).verdict
    assert Verdict.PROVED is certify(resumed_at_30(samples=None)).verdict


def test_a_replay_with_nothing_to_compare_is_a_doubt():
    """It ran again, and nobody knows whether it was the same."""
    certificate = certify(resumed_at_30(samples=None, loss=None))

    assert (Verdict.CONSISTENT, 0) == (certificate.verdict, certificate.replayed_steps)


def test_a_step_that_ran_three_times_is_compared_twice():
    """Each with the one before; the third differs."""
    run = story(
        launched(), hello(), steps(1, 35), saved(30), killed(),
        launched(resume=30), hello(step=30), steps(31, 33), killed(),
        launched(resume=30), hello(step=30), steps(31, 60, samples=1), finished(),
    )  # fmt: skip

    assert (8, ("other samples at steps 31-35 when run again in attempt 3",)) == (
        certify(run).replayed_steps,
        certify(run).reasons,
    )


# --- the whole ----------------------------------------------------------------------------------------------------


def test_a_run_that_never_trained_proves_nothing():
    """A crash in start-up, and a run folder without an attempt."""
    crashed = story(launched(), failed("code_bug", "unknown argument", "error: --lerning_rate"))

    assert ("rows were not counted: no training step was seen",) == certify(crashed).reasons
    assert Verdict.NOT_PROVABLE is certify(story()).verdict


def test_a_living_run_is_judged_by_what_it_has_counted_so_far():
    """A rank that has reported its step earlier than the other is no gap."""
    run = story(launched(), hello(ranks=2, split=(4, 2)), steps(1, 20, ranks=2), steps(21, 21, ranks=2)[1])

    assert (Verdict.PROVED, 20) == (certify(run).verdict, certify(run).steps_counted)


def test_a_long_night_is_proved_and_its_reasons_stay_few():
    """500 attempts; a fault in each of them is counted, not told."""
    wrong = [
        (
            launched(resume=at * 5 or None),
            hello(step=at * 5, max_steps=9999),
            steps(at * 5 + 1, at * 5 + 9, rows=16 + at),
        )
        for at in range(50)
    ]

    assert Verdict.PROVED is certify(a_long_night()).verdict
    assert REASONS + 1 == len(certify(story(wrong)).reasons)


@pytest.mark.parametrize(
    "numbers, words",
    [
        ([7], "step 7"),
        ([31, 32, 33], "steps 31-33"),
        ([3, 1, 2, 9], "steps 1-3 and 9"),
        ([1, 3, 5, 7, 9, 11], "steps 1, 3, 5, 7 and 2 more places"),
    ],
)
def test_steps_are_spelled_as_ranges(numbers, words):
    """However many there are, the words stay short."""
    assert words == spell(numbers)


@pytest.mark.parametrize(
    "option, shift",
    [("--ignore_data_skip: rows again", 1), ("--group_by_length: by length", 1), ("--packing: packs", 0)],
)
def test_what_the_command_asks_for_weakens_the_proof_by_name(option, shift):
    """The user's own choice is no violation, whatever rows it leads to; and no proof."""
    quiet = (created(weakened=(option,)), launched(), hello(), steps(1, 35))
    certificate = certify(
        story(
            *quiet, saved(30), killed(), launched(resume=30), hello(step=30), steps(31, 60, samples=shift), finished()
        )
    )

    assert Verdict.CONSISTENT is certificate.verdict
    assert f"the training was asked for {option}" == certificate.reasons[0]
    assert bool(shift) is any("other samples" in reason for reason in certificate.reasons)
    assert Verdict.PROVED is certify(story(*quiet, steps(36, 60), finished())).verdict


def test_what_a_script_has_written_in_weakens_the_proof_too():
    """No word of the command names it; the training tells it, once for all attempts."""
    told = tuple(replace(one, weakening=("ignore_data_skip", "unheard_of")) for one in hello())
    again = tuple(replace(one, step=30) for one in told)
    quiet = (launched(), told, steps(1, 35))
    certificate = certify(
        story(*quiet, saved(30), killed(), launched(resume=30), again, steps(31, 60, samples=1), finished())
    )

    assert Verdict.CONSISTENT is certificate.verdict
    assert 2 == len(certificate.reasons)
    assert "the training was asked for --ignore_data_skip: " in certificate.reasons[0]
    assert Verdict.PROVED is certify(story(*quiet, steps(36, 60), finished())).verdict


def end_to_end(*, before, after):
    """Killed and resumed with these splits; a micro-batch is one row, whatever the number of its rows was."""
    first, second = (
        tuple(replace(one, weakening=("padding_free",)) for one in hello(step=step, split=split))
        for step, split in ((0, before), (30, after))
    )
    return certify(
        story(
            launched(), first, steps(1, 35, rows=before[1]), saved(30), killed(),
            launched(resume=30), second, steps(31, 60, rows=after[1], samples=int(before != after)), finished(),
        )
    )  # fmt: skip


def test_rows_that_are_laid_end_to_end_are_no_violation_when_they_are_split_another_way():
    """Counted are micro-batches then, and hashed too: named, and no proof."""
    other = end_to_end(before=(4, 4), after=(2, 8))

    assert Verdict.CONSISTENT is other.verdict
    assert "the training was asked for --padding_free: " in other.reasons[0]
    assert any("8 rows instead of 4" in reason for reason in other.reasons)


def test_rows_that_are_laid_end_to_end_are_a_violation_where_the_split_is_the_same():
    """A micro-batch more is a micro-batch more."""
    assert Verdict.CONSISTENT is end_to_end(before=(4, 4), after=(4, 4)).verdict
    assert Verdict.VIOLATED is end_to_end(before=(4, 4), after=(4, 8)).verdict


def test_packing_excuses_no_other_samples():
    """Packs are drawn as rows are: the same ones after a resume."""
    packed = created(weakened=("--packing: packs",))
    again = (launched(resume=30), hello(step=30), steps(31, 60, samples=1), finished())
    certificate = certify(story(packed, launched(), hello(), steps(1, 35), saved(30), killed(), *again))

    assert Verdict.VIOLATED is certificate.verdict


@pytest.mark.parametrize("asked, verdict", [(2, Verdict.CONSISTENT), (1, Verdict.PROVED), (None, Verdict.PROVED)])
def test_ranks_that_form_no_group_are_no_proof(asked, verdict):
    """Each says that it is alone, and all count as one: half of what was asked for, twice."""
    certificate = certify(story(created(asked=asked), launched(), hello(), steps(1, 60), finished()))

    assert verdict is certificate.verdict
    assert (verdict is Verdict.CONSISTENT) is ("asks for 2 ranks" in certificate.reasons[0])
