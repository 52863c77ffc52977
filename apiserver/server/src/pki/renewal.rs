//! When a certificate is replaced by a new one. Decides; what asks for the new one and what takes it up is elsewhere.

use x509_parser::certificate::X509Certificate;

/// The span of a certificate's life, in Unix seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    pub from: i64,
    pub until: i64,
}

impl Validity {
    pub fn of(certificate: &X509Certificate<'_>) -> Self {
        let validity = certificate.validity();
        Validity { from: validity.not_before.timestamp(), until: validity.not_after.timestamp() }
    }

    /// That of the first certificate of a PEM text.
    pub fn of_pem(pem: &str) -> Option<Self> {
        let first = super::certificates(pem).into_iter().next()?;
        x509_parser::parse_x509_certificate(&first).ok().map(|(_, parsed)| Validity::of(&parsed))
    }

    /// The second from which a new one is asked for: when between 70 % (`spread` 0) and 90 % (1) of its life are over, so that
    /// nodes which joined together do not ask together (upstream: client-go/util/certificate).
    pub fn renewal(&self, spread: f64) -> i64 {
        let life = (self.until - self.from) as f64;
        self.from + (life * (0.7 + 0.2 * spread.clamp(0.0, 1.0))).round() as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{Authority, Profile};

    #[test]
    fn a_certificate_is_renewed_between_70_and_90_percent_of_its_life() {
        let validity = Validity { from: 1000, until: 2000 };
        for (spread, at) in [(0.0, 1700), (0.5, 1800), (1.0, 1900), (7.0, 1900)] {
            assert_eq!(validity.renewal(spread), at, "{spread}");
        }
        // One that was never good is due at once.
        assert!(Validity { from: 2000, until: 1000 }.renewal(0.5) < 2000);
    }

    #[test]
    fn the_first_certificate_of_a_text_counts() {
        let ca = Authority::create("ca").unwrap();
        let leaf = ca.issue(&Profile::client("a", &[])).unwrap();
        let both = format!("{}{}", leaf.certificate_pem, ca.certificate_pem);
        assert_eq!(Validity::of_pem(&both), Validity::of_pem(&leaf.certificate_pem));
        assert_ne!(Validity::of_pem(&both), Validity::of_pem(&ca.certificate_pem));
        assert_eq!(Validity::of_pem("none"), None);
    }
}
