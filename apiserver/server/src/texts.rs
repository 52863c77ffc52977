//! Many short texts in two pieces of memory: what a cache keeps of each object is paid for every object there is.

/// Texts in order, packed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Texts {
    text: Box<str>,
    /// Where each one ends.
    ends: Box<[u32]>,
}

impl Texts {
    /// The texts together must be below 4 GiB.
    pub fn of<'a>(texts: impl Iterator<Item = &'a str>) -> Texts {
        let (mut text, mut ends) = (String::new(), Vec::new());
        for one in texts {
            text.push_str(one);
            ends.push(u32::try_from(text.len()).expect("objects are smaller than 4 GiB"));
        }
        Texts { text: text.into(), ends: ends.into() }
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// The text at `index`, which must be below [`Texts::len`].
    pub fn get(&self, index: usize) -> &str {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        &self.text[start..self.ends[index] as usize]
    }

    /// The bytes that it has on the heap.
    pub fn size(&self) -> usize {
        self.text.len() + size_of_val(&*self.ends)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_back_in_their_order() {
        let texts = Texts::of(["a", "", "ü", "four"].into_iter());
        assert_eq!((0..texts.len()).map(|at| texts.get(at)).collect::<Vec<_>>(), ["a", "", "ü", "four"]);
        assert_eq!(texts.size(), 7 + 16);
        assert_eq!(Texts::of([].into_iter()).len(), 0);
    }
}
