//! Asking before something that cannot be taken back. Only on a terminal; elsewhere `--yes` is the answer, or none.

use std::io::{self, BufRead, IsTerminal, Write};

use crate::cli::Confirm;
use crate::exit::Failed;

impl Confirm {
    /// `what` is what will be done, as a sentence without its end.
    pub(crate) fn ask(self, what: &str) -> Result<(), Failed> {
        if self.yes {
            return Ok(());
        }
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Err(Failed::usage(format!(
                "{what}: nobody can be asked here; give --yes if that is meant"
            )));
        }
        write!(io::stderr().lock(), "{what}. Go on? Type yes: ")?;
        let mut answer = String::new();
        stdin.lock().read_line(&mut answer)?;
        if answer.trim().eq_ignore_ascii_case("yes") {
            Ok(())
        } else {
            Err(Failed::failure("not confirmed: nothing was done"))
        }
    }
}
