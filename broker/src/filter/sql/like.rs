//! `LIKE`: `%` stands for any characters, `_` for one.

/// A pattern, taken apart at its `%`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    /// One more than there are `%`. The first stands at the start and the last at the end.
    parts: Vec<Part>,
}

/// Characters in a row; `None` is any one.
type Part = Vec<Option<char>>;

impl Pattern {
    /// `None` when an escape character stands before what is neither `%`, `_` nor itself.
    pub(super) fn parse(pattern: &str, escape: Option<char>) -> Option<Pattern> {
        let mut parts = vec![Part::new()];
        let mut characters = pattern.chars();
        while let Some(character) = characters.next() {
            let last = parts.last_mut().expect("there is one from the start");
            match character {
                _ if Some(character) == escape => {
                    let escaped =
                        characters.next().filter(|next| matches!(next, '%' | '_') || Some(*next) == escape)?;
                    last.push(Some(escaped));
                }
                '%' => parts.push(Part::new()),
                '_' => last.push(None),
                _ => last.push(Some(character)),
            }
        }
        Some(Pattern { parts })
    }

    /// Takes steps in proportion to the product of both lengths at most.
    pub(super) fn matches(&self, value: &str) -> bool {
        let value: Vec<char> = value.chars().collect();
        let (first, rest) = self.parts.split_first().expect("there is one from the start");
        let Some((last, middle)) = rest.split_last() else {
            return value.len() == first.len() && fits(first, &value);
        };
        if value.len() < first.len() + last.len() || !fits(first, &value) {
            return false;
        }
        let (mut left, tail) = value[first.len()..].split_at(value.len() - first.len() - last.len());
        if !fits(last, tail) {
            return false;
        }
        // The first place that fits leaves the most for the others.
        middle.iter().all(|part| {
            let places = (left.len() + 1).saturating_sub(part.len());
            let found = (0..places).find(|at| fits(part, &left[*at..]));
            found.is_some_and(|at| {
                left = &left[at + part.len()..];
                true
            })
        })
    }
}

/// Whether the value begins with the part.
fn fits(part: &Part, value: &[char]) -> bool {
    value.len() >= part.len() && part.iter().zip(value).all(|(part, value)| part.is_none_or(|part| part == *value))
}
