//! Rust source with its comments and the insides of its literals blanked, so that a rule that looks for a call does
//! not find it in prose. Not a parser: it knows where text ends and code begins, nothing more.

/// `text` with the same lines, comments and literals' contents replaced by spaces.
pub(super) fn code_view(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut view: Vec<char> = Vec::with_capacity(chars.len());
    let mut at = 0;
    while at < chars.len() {
        let rest = &chars[at..];
        // How long the text is that begins here (0: none does), and how much of its opening stays.
        let (length, kept) = match rest {
            ['/', '/', ..] => (line(rest), 0),
            ['/', '*', ..] => (block(rest), 0),
            ['"', ..] => (string(rest), 1),
            ['r', '"' | '#', ..] if !follows_word(&chars, at) => (raw(rest), 1),
            ['\'', ..] => (character(rest), 0),
            _ => (0, 1),
        };
        let kept = if length == 0 { 1 } else { kept };
        let end = (at + length.max(1)).min(chars.len());
        for (offset, c) in chars[at..end].iter().enumerate() {
            view.push(if *c == '\n' || offset < kept { *c } else { ' ' });
        }
        at = end;
    }
    view.into_iter().collect()
}

fn follows_word(chars: &[char], at: usize) -> bool {
    at.checked_sub(1).is_some_and(|before| {
        let before = chars[before];
        (before.is_alphanumeric() && before != 'b') || before == '_'
    })
}

fn line(rest: &[char]) -> usize {
    rest.iter().position(|c| *c == '\n').unwrap_or(rest.len())
}

fn block(rest: &[char]) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        match rest[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

fn string(rest: &[char]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// The length of a raw string, or 0 for a raw identifier.
fn raw(rest: &[char]) -> usize {
    let hashes = rest[1..].iter().take_while(|c| **c == '#').count();
    if rest.get(1 + hashes) != Some(&'"') {
        return 0;
    }
    let closes = |at: usize| {
        rest[at] == '"' && rest[at + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes
    };
    let end = (hashes + 2..rest.len()).find(|at| closes(*at));
    end.map_or(rest.len(), |at| at + 1 + hashes)
}

/// The length of a character literal, or 0 for a lifetime.
fn character(rest: &[char]) -> usize {
    match rest {
        ['\'', '\\', _, ..] => rest[3..].iter().position(|c| *c == '\'').map_or(0, |at| at + 4),
        ['\'', _, '\'', ..] => 3,
        _ => 0,
    }
}
