//! Join tokens: what a new node is given on its command line. `K10<sha256 of the CA file>::<id>.<secret>` pins the CA as
//! k3s's tokens do; a bare `<id>.<secret>` is a kubeadm bootstrap token and pins nothing.

use sha2::{Digest, Sha256};

use super::hex;

/// A bootstrap token: six and sixteen lower-case letters and digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootstrapToken {
    pub id: String,
    pub secret: String,
}

impl BootstrapToken {
    pub fn parse(text: &str) -> Option<Self> {
        let (id, secret) = text.split_once('.')?;
        let good =
            |s: &str, len: usize| s.len() == len && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        (good(id, 6) && good(secret, 16)).then(|| BootstrapToken { id: id.into(), secret: secret.into() })
    }

    pub fn random() -> Self {
        const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
        let word = |len: usize| -> String {
            (0..len).map(|_| LETTERS[rand::random_range(0..LETTERS.len())] as char).collect()
        };
        BootstrapToken { id: word(6), secret: word(16) }
    }
}

impl std::fmt::Display for BootstrapToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.id, self.secret)
    }
}

/// What a join token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinToken {
    /// Lower-case hex SHA-256 of the CA file that the server must show.
    pub ca_hash: Option<String>,
    pub token: BootstrapToken,
}

impl JoinToken {
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let Some(pinned) = text.strip_prefix("K10") else {
            return Some(JoinToken { ca_hash: None, token: BootstrapToken::parse(text)? });
        };
        let (hash, token) = pinned.split_once("::")?;
        let good = hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        good.then_some(())?;
        Some(JoinToken { ca_hash: Some(hash.into()), token: BootstrapToken::parse(token)? })
    }

    /// Whether this is the CA that the token was made for.
    pub fn trusts(&self, ca_pem: &str) -> bool {
        self.ca_hash.as_ref().is_none_or(|hash| *hash == hex(&Sha256::digest(ca_pem.as_bytes())))
    }
}

impl std::fmt::Display for JoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.ca_hash {
            Some(hash) => write!(f, "K10{hash}::{}", self.token),
            None => write!(f, "{}", self.token),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_join_token_reads_back_and_trusts_only_its_authority() {
        let token = JoinToken { ca_hash: Some(hex(&Sha256::digest(b"ca"))), token: BootstrapToken::random() };
        let read = JoinToken::parse(&token.to_string()).unwrap();
        assert_eq!(read, token);
        assert!(read.trusts("ca") && !read.trusts("another"));
    }

    #[test]
    fn malformed_tokens_are_refused() {
        for bad in ["", "abc", "abcdef.short", "ABCDEF.0123456789abcdef", "K10zz::abcdef.0123456789abcdef"] {
            assert_eq!(JoinToken::parse(bad), None, "{bad}");
        }
        assert!(JoinToken::parse("abcdef.0123456789abcdef").is_some());
    }
}
