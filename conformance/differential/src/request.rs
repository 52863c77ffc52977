//! One request, the same for both servers but for what `${rv}` and `${uid}` stand for, and its answer. No IO.

use sha2::{Digest, Sha256};

/// What a request is called in reports and in the list: the resource, and what is asked of it.
#[derive(Clone, Debug)]
pub struct Request {
    pub resource: String,
    pub case: String,
    pub method: String,
    /// With the query.
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// `${rv}` and `${uid}` of later requests of the scenario are those of this answer's object.
    pub remember: bool,
    /// The path of an object that the servers themselves go on writing after this request: the next waits until they have.
    pub settles: Option<String>,
}

impl Request {
    pub fn new(resource: &str, case: impl Into<String>, method: &str, path: impl Into<String>) -> Self {
        Self {
            resource: resource.to_owned(),
            case: case.into(),
            method: method.to_owned(),
            path: path.into(),
            headers: Vec::new(),
            body: Vec::new(),
            remember: false,
            settles: None,
        }
    }

    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub fn accept(self, value: &str) -> Self {
        self.header("accept", value)
    }

    pub fn body(mut self, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self.header("content-type", content_type)
    }

    pub fn json(self, body: &serde_json::Value) -> Self {
        self.body("application/json", body.to_string())
    }

    pub fn remembered(mut self) -> Self {
        self.remember = true;
        self
    }

    pub fn settles(mut self, path: Option<String>) -> Self {
        self.settles = path;
        self
    }

    /// Equal for equal requests: what is counted as distinct, and what a sample is drawn by.
    pub fn digest(&self) -> u64 {
        let mut hash = Sha256::new();
        let mut add = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        };
        add(self.method.as_bytes());
        add(self.path.as_bytes());
        for (name, value) in &self.headers {
            add(name.as_bytes());
            add(value.as_bytes());
        }
        add(&self.body);
        let digest = hash.finalize();
        u64::from_be_bytes(digest[..8].try_into().expect("a SHA-256 has 32 bytes"))
    }

    /// The body as one side gets it.
    pub fn filled(&self, known: &Known) -> Vec<u8> {
        match std::str::from_utf8(&self.body) {
            Ok(text) if text.contains("${") => known.fill(text).into_bytes(),
            _ => self.body.clone(),
        }
    }
}

/// What a side has said about the scenario's object.
#[derive(Clone, Debug, Default)]
pub struct Known {
    pub rv: String,
    pub uid: String,
}

impl Known {
    pub fn fill(&self, text: &str) -> String {
        text.replace("${rv}", &self.rv).replace("${uid}", &self.uid)
    }
}

#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    /// Lower-case names, in the order they came.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect()
    }
}

/// The requests about one type, in three parts: in order; all at once, since they wait; in order again.
#[derive(Clone, Debug, Default)]
pub struct Scenario {
    pub resource: String,
    pub steps: Vec<Request>,
    pub waiting: Vec<Request>,
    pub teardown: Vec<Request>,
    /// What it makes changes how others are answered: it is taken down before the next scenario begins.
    pub disturbs: bool,
}
