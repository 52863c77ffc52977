//! The static token file: `token,user,uid["group1,group2"]` lines of CSV (upstream
//! apiserver/pkg/authentication/token/tokenfile).

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use async_trait::async_trait;

use super::{Authentication, Authenticator, Credentials};
use crate::request::UserInfo;

#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    #[error("read token file {path}")]
    Read {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("token file line {0} must have at least 3 columns (token, user name, user uid), found {1}")]
    TooFewColumns(usize, usize),
}

pub struct StaticTokens(HashMap<String, UserInfo>);

impl StaticTokens {
    pub fn load(path: &Path) -> Result<Self, TokenFileError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| TokenFileError::Read { path: path.display().to_string(), source })?;
        Self::parse(&text)
    }

    pub fn parse(text: &str) -> Result<Self, TokenFileError> {
        let mut tokens = HashMap::new();
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let columns = columns(line);
            if columns.len() < 3 {
                return Err(TokenFileError::TooFewColumns(number + 1, columns.len()));
            }
            if columns[0].is_empty() {
                tracing::warn!(line = number + 1, "empty token has been found in token file");
                continue;
            }
            let groups = columns.get(3).map(String::as_str).unwrap_or("");
            let groups = groups.split(',').map(str::trim).filter(|g| !g.is_empty()).map(str::to_owned).collect();
            let user = UserInfo { name: columns[1].clone(), uid: columns[2].clone(), groups, extra: BTreeMap::new() };
            tokens.insert(columns[0].clone(), user);
        }
        Ok(StaticTokens(tokens))
    }
}

/// The fields of one CSV line; a quoted field may hold commas and doubled quotes.
fn columns(line: &str) -> Vec<String> {
    let mut columns = vec![String::new()];
    let (mut quoted, mut chars) = (false, line.chars().peekable());
    while let Some(c) = chars.next() {
        let current = columns.last_mut().expect("there is always a column");
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                current.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => columns.push(String::new()),
            c => current.push(c),
        }
    }
    for column in &mut columns {
        *column = column.trim().to_owned();
    }
    columns
}

#[async_trait]
impl Authenticator for StaticTokens {
    async fn authenticate(&self, credentials: &Credentials) -> Authentication {
        match credentials.bearer_token.as_ref().and_then(|token| self.0.get(token)) {
            Some(user) => Authentication::User { user: user.clone(), audiences: Vec::new() },
            None => Authentication::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_line_gives_user_uid_and_groups() {
        let tokens = StaticTokens::parse("abc,alice,u1,\"dev,ops\"\n\nxyz,bob,u2\n").unwrap();
        let Authentication::User { user, .. } = tokens.authenticate(&Credentials::token("abc", vec![])).await else {
            panic!("refused")
        };
        assert_eq!((user.name, user.uid, user.groups), ("alice".into(), "u1".into(), vec!["dev".into(), "ops".into()]));
        assert_eq!(tokens.authenticate(&Credentials::token("nope", vec![])).await, Authentication::Unknown);
    }

    #[test]
    fn a_short_line_is_an_error_that_names_it() {
        let error = StaticTokens::parse("a,b,c\nabc,alice").err().unwrap().to_string();
        assert!(error.contains("line 2"), "{error}");
    }
}
