//! The bearer token that opens details and admin: 256 random bits, compared in constant time over SHA-256.
//!
//! The server keeps the digest alone. A token file is made once, readable by its owner only, and never
//! half-written: it appears under its name complete. Not here: users, roles, expiry (mTLS and tiers come later).

use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rand::TryRngCore;
use rand::rngs::OsRng;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// Shorter ones are refused: 32 hexadecimal digits are 128 bits, the least that cannot be guessed.
const MIN_CHARS: usize = 32;
const MAX_CHARS: usize = 512;

/// A bearer token in clear. `Debug` shows none of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

/// Why a token or its file is no good.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The text is no token.
    #[error("the admin token {0}; make one with 32 random bytes, for example `openssl rand -hex 32`")]
    Invalid(&'static str),
    /// Others than its owner may read the file.
    #[error("{} may be read by others (mode {mode:o}); run `chmod 600 {}`", path.display(), path.display())]
    Exposed {
        /// The token file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file could not be read or written.
    #[error("{operation} the token file {}", path.display())]
    File {
        /// `reading` or `writing`.
        operation: &'static str,
        /// The token file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The system gave no random bytes.
    #[error("the system's random source failed")]
    Random,
}

impl Token {
    /// 256 bits from the system's random source, as 64 hexadecimal digits.
    ///
    /// # Errors
    /// [`TokenError::Random`] when the system has no random bytes to give.
    pub fn generate() -> Result<Self, TokenError> {
        let mut bytes = [0_u8; 32];
        OsRng.try_fill_bytes(&mut bytes).map_err(|_unspecific| TokenError::Random)?;
        Ok(Self(hex(&bytes)))
    }

    /// Takes a token as it stands, without white space around it.
    ///
    /// # Errors
    /// [`TokenError::Invalid`] when it is shorter than 32 characters, longer than 512, or not visible ASCII.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        match text.len() {
            0 => Err(TokenError::Invalid("is empty")),
            n if n < MIN_CHARS => Err(TokenError::Invalid("is shorter than 32 characters")),
            n if n > MAX_CHARS => Err(TokenError::Invalid("is longer than 512 characters")),
            _ if !text.bytes().all(|b| b.is_ascii_graphic()) => {
                Err(TokenError::Invalid("holds characters other than visible ASCII"))
            }
            _ => Ok(Self(text.to_owned())),
        }
    }

    /// Reads a token file.
    ///
    /// # Errors
    /// The file is missing, may be read or written by others than owner and group, or holds no token.
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        let failed = |source| TokenError::File { operation: "reading", path: path.to_owned(), source };
        let file = std::fs::File::open(path).map_err(failed)?;
        let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
        // Group may read: that is how an orchestrator mounts secrets.
        if mode & 0o027 != 0 {
            return Err(TokenError::Exposed { path: path.to_owned(), mode });
        }
        let mut text = String::new();
        file.take(4096).read_to_string(&mut text).map_err(failed)?;
        Self::parse(&text)
    }

    /// Reads the token file, or makes it (mode 0600) with a fresh token when it is not there.
    ///
    /// Two processes that start at once end up with the same token.
    ///
    /// # Errors
    /// As [`Token::read`], or the file cannot be written.
    pub fn read_or_create(path: &Path) -> Result<Self, TokenError> {
        match Self::read(path) {
            Err(TokenError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        let failed = |source| TokenError::File { operation: "writing", path: path.to_owned(), source };
        let token = Self::generate()?;
        let name = path.file_name().ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
        let draft = path.with_file_name(format!(
            ".{}.{}.{}",
            name.to_string_lossy(),
            std::process::id(),
            &token.fingerprint()
        ));
        let written = write_private(&draft, token.expose())
            // A hard link, unlike a rename, does not replace the file of whoever came first.
            .and_then(|()| std::fs::hard_link(&draft, path));
        let _best_effort = std::fs::remove_file(&draft);
        match written {
            Ok(()) => Ok(token),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Self::read(path),
            Err(error) => Err(failed(error)),
        }
    }

    /// Makes a fresh token in a new private file (mode 0600) of this directory, under a name that nobody can foresee.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn create_in(directory: &Path) -> Result<(Self, PathBuf), TokenError> {
        let token = Self::generate()?;
        let name = format!("dbsvc-{}-{}.token", std::process::id(), Self::generate()?.fingerprint());
        let path = directory.join(name);
        write_private(&path, token.expose()).map_err(|source| TokenError::File {
            operation: "writing",
            path: path.clone(),
            source,
        })?;
        Ok((token, path))
    }

    /// The token in clear, to hand it to a client.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// First 8 digits of its SHA-256: names a token in the audit trail without giving it away.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        self.digest().fingerprint()
    }

    pub(crate) fn digest(&self) -> TokenDigest {
        TokenDigest(Sha256::digest(self.0.as_bytes()).into())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token(sha256 {}…)", self.fingerprint())
    }
}

/// What the server keeps of a token.
#[derive(Clone, Copy)]
pub(crate) struct TokenDigest([u8; 32]);

impl TokenDigest {
    /// Whether `presented` is the token; takes the same time for every wrong one.
    pub(crate) fn accepts(&self, presented: &[u8]) -> bool {
        let presented: [u8; 32] = Sha256::digest(presented).into();
        presented.ct_eq(&self.0).into()
    }

    pub(crate) fn fingerprint(&self) -> String {
        hex(&self.0[..4])
    }
}

impl fmt::Debug for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenDigest({}…)", self.fingerprint())
    }
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let written = file.write_all(format!("{text}\n").as_bytes()).and_then(|()| file.sync_all());
    // A full disk leaves no half of a token behind.
    written.inspect_err(|_| {
        let _best_effort = std::fs::remove_file(path);
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
