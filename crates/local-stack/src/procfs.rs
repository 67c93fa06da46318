//! The little of `/proc` that is needed: a process's state, parent and children. Linux only; elsewhere every answer
//! is "none", and the native provider refuses to start.

/// One process as `/proc/PID/stat` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) state: char,
    pub(crate) parent: u32,
    /// When it was started, in clock ticks since boot: with its number, unique for all practical purposes.
    pub(crate) born: u64,
}

impl Stat {
    /// Stopped, traced, a zombie or dead: in no state to fork.
    pub(crate) fn is_halted(self) -> bool {
        matches!(self.state, 'T' | 't' | 'Z' | 'X')
    }
}

/// Reads one process; `None` if there is none.
pub(crate) fn stat(pid: u32) -> Option<Stat> {
    parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Whether a process runs; a zombie does not.
pub(crate) fn is_running(pid: u32) -> bool {
    stat(pid).is_some_and(|stat| !matches!(stat.state, 'Z' | 'X'))
}

/// The direct children. Postgres forks all its processes from the postmaster, Redis its savers from the server, so
/// one level is the whole tree.
pub(crate) fn children_of(parent: u32) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| stat(*pid).is_some_and(|stat| stat.parent == parent))
        .collect()
}

// "pid (name) state ppid …"; the name may hold blanks and parentheses, so it is skipped from the right.
fn parse(line: &str) -> Option<Stat> {
    let mut fields = line.get(line.rfind(')')? + 1..)?.split_ascii_whitespace();
    Some(Stat {
        state: fields.next()?.chars().next()?,
        parent: fields.next()?.parse().ok()?,
        born: fields.nth(17)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_is_skipped() {
        let line = "12 (a) b (c)) S 7 12 12 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 1 1";
        assert_eq!(parse(line), Some(Stat { state: 'S', parent: 7, born: 4711 }));
        assert_eq!(parse("12 (a"), None);
    }

    #[test]
    fn we_are_a_child_of_our_parent() {
        let parent = std::os::unix::process::parent_id();
        assert!(children_of(parent).contains(&std::process::id()));
        assert!(is_running(std::process::id()));
    }
}
