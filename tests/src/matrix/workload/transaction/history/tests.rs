//! What the checker of transactions notices.

use super::*;

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn word(commit: bool, outcome: Result<Option<&str>, ()>) -> Word {
    Word { commit, said: s(2), answered: s(3), outcome: outcome.map(|refused| refused.map(str::to_owned)) }
}

fn halves(words: &[Word]) -> Halves {
    [(1, Half { acknowledged: true, words: words.to_vec(), asked: Vec::new() })].into()
}

#[track_caller]
fn check(words: &[Word], came: Option<u64>, holds: bool) {
    let came = came.map(|at| (1, s(at))).into_iter().collect();
    let verdict = seen_as_ended(&halves(words), &came);
    assert_eq!(verdict == Verdict::True, holds, "{words:?}, came {came:?}: {verdict}");
}

#[test]
fn a_message_that_is_seen_otherwise_than_it_ended_is_noticed() {
    let (committed, rolled_back) = (word(true, Ok(None)), word(false, Ok(None)));
    let (maybe, refused) = (word(true, Err(())), word(true, Ok(Some("it was rolled back"))));
    check(std::slice::from_ref(&committed), Some(4), true);
    check(std::slice::from_ref(&committed), None, false);
    check(std::slice::from_ref(&committed), Some(1), false);
    check(std::slice::from_ref(&rolled_back), None, true);
    check(std::slice::from_ref(&rolled_back), Some(4), false);
    check(std::slice::from_ref(&maybe), None, true);
    check(std::slice::from_ref(&maybe), Some(4), true);
    check(&[rolled_back.clone(), refused], None, true);
    check(&[committed, rolled_back], Some(4), false);
    check(&[], Some(4), false);
    check(&[], None, true);
}

#[test]
fn a_word_that_is_refused_for_nothing_is_noticed() {
    let (refused, rolled_back) = (word(true, Ok(Some("there is none"))), word(false, Ok(None)));
    assert!(matches!(words_are_taken(&halves(std::slice::from_ref(&refused))), Verdict::False(_)));
    assert_eq!(words_are_taken(&halves(&[rolled_back, refused])), Verdict::True);
    assert_eq!(words_are_taken(&halves(&[word(true, Err(()))])), Verdict::True);
}

#[test]
fn questions_too_many_and_too_late_are_noticed() {
    let asked = |times: &[u64]| -> Halves {
        let asked = times.iter().map(|at| s(*at)).collect();
        [(1, Half { acknowledged: true, words: vec![word(true, Ok(None))], asked })].into()
    };
    assert_eq!(asked_as_agreed(&asked(&[1, 2, 3]), s(0)), Verdict::True);
    assert!(matches!(asked_as_agreed(&asked(&[1; CHECKS_MAX + REPEATED_MAX + 1]), s(0)), Verdict::False(_)));
    assert!(matches!(asked_as_agreed(&asked(&[1, 20]), s(0)), Verdict::False(_)));
    assert_eq!(asked_as_agreed(&asked(&[1, 20]), s(18)), Verdict::True);
}

#[test]
fn what_was_left_open_is_noticed() {
    assert_eq!(open(&halves(&[])), [1]);
    assert!(open(&halves(&[word(true, Ok(None))])).is_empty());
}
