//! Names in a client's certificate: as Postgres takes them (the last common name; the subject as RFC 2253 writes it), and
//! alternative names besides.
//!
//! Just enough of X.509 for that. The certificate has been verified by then, so its maker is trusted; what is
//! read is checked all the same, and what cannot be read is no name.

use crate::session::auth::rules::ClientName;
use std::fmt::Write as _;

/// The names of a certificate that count.
pub fn names(certificate: &[u8], which: ClientName) -> Vec<String> {
    let Some(certificate) = Certificate::read(certificate) else { return vec![] };
    match which {
        ClientName::Cn => certificate.common_name().into_iter().collect(),
        ClientName::Dn => certificate.distinguished_name().into_iter().collect(),
        ClientName::San => certificate.alternative_names(),
    }
}

/// The common name of a certificate's subject, the last one when there are several.
pub fn common_name(certificate: &[u8]) -> Option<String> {
    Certificate::read(certificate)?.common_name()
}

/// The parts of a certificate that hold names.
struct Certificate<'a> {
    subject: &'a [u8],
    /// what comes behind the public key
    rest: &'a [u8],
}

const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const OBJECT_ID: u8 = 0x06;
const BMP_STRING: u8 = 0x1e;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// context-specific tags: version and extensions of a certificate; names in subjectAltName
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
const EMAIL: u8 = 0x81;
const DNS: u8 = 0x82;
const URI: u8 = 0x86;

const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03]; // 2.5.4.3
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11]; // 2.5.29.17

/// Short names of attributes, as OpenSSL writes them.
const ATTRIBUTES: [(&[u8], &str); 16] = [
    (COMMON_NAME, "CN"),
    (&[0x55, 0x04, 0x04], "SN"),
    (&[0x55, 0x04, 0x05], "serialNumber"),
    (&[0x55, 0x04, 0x06], "C"),
    (&[0x55, 0x04, 0x07], "L"),
    (&[0x55, 0x04, 0x08], "ST"),
    (&[0x55, 0x04, 0x09], "street"),
    (&[0x55, 0x04, 0x0a], "O"),
    (&[0x55, 0x04, 0x0b], "OU"),
    (&[0x55, 0x04, 0x0c], "title"),
    (&[0x55, 0x04, 0x0d], "description"),
    (&[0x55, 0x04, 0x2a], "GN"),
    (&[0x55, 0x04, 0x2e], "dnQualifier"),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x01], "emailAddress"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 0x01, 0x01], "UID"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 0x01, 0x19], "DC"),
];

/// Identifier, kind of value, value.
type Attribute<'a> = (&'a [u8], u8, &'a [u8]);

impl<'a> Certificate<'a> {
    fn read(certificate: &'a [u8]) -> Option<Self> {
        let mut signed = Der(Der(Der(certificate).element(SEQUENCE)?).element(SEQUENCE)?);
        let _ = signed.element(VERSION); // absent in v1
        signed.element(INTEGER)?; // serial number
        signed.element(SEQUENCE)?; // algorithm
        signed.element(SEQUENCE)?; // issuer
        signed.element(SEQUENCE)?; // validity
        let subject = signed.element(SEQUENCE)?;
        signed.element(SEQUENCE)?; // public key
        Some(Certificate { subject, rest: signed.0 })
    }

    /// Attributes of the subject: those of one relative name together, in order of the certificate.
    fn attributes(&self) -> Option<Vec<Vec<Attribute<'a>>>> {
        let mut subject = Der(self.subject);
        let mut all = Vec::new();
        while !subject.0.is_empty() {
            let mut set = Der(subject.element(SET)?);
            let mut together = Vec::new();
            while !set.0.is_empty() {
                let mut attribute = Der(set.element(SEQUENCE)?);
                let id = attribute.element(OBJECT_ID)?;
                let (kind, value) = attribute.any()?;
                together.push((id, kind, value));
            }
            all.push(together);
        }
        Some(all)
    }

    fn common_name(&self) -> Option<String> {
        let attributes = self.attributes()?;
        let (_, kind, value) = attributes.into_iter().flatten().rfind(|(id, ..)| *id == COMMON_NAME)?;
        text(kind, value)
    }

    /// Last attribute first, `CN=alice,OU=staff,O=house`.
    fn distinguished_name(&self) -> Option<String> {
        let mut parts = Vec::new();
        for together in self.attributes()?.into_iter().rev() {
            let mut part = Vec::new();
            // OpenSSL, and so Postgres, turns the order within such a group as well
            for (id, kind, value) in together.into_iter().rev() {
                match ATTRIBUTES.iter().find(|(known, _)| *known == id) {
                    Some((_, name)) => part.push(format!("{name}={}", escaped(&text(kind, value)?))),
                    None => part.push(format!("{}={}", dotted(id)?, dump(kind, value)?)),
                }
            }
            parts.push(part.join("+"));
        }
        Some(parts.join(",")).filter(|name| !name.is_empty())
    }

    fn alternative_names(&self) -> Vec<String> {
        self.extension(SUBJECT_ALT_NAME).map(general_names).unwrap_or_default()
    }

    fn extension(&self, wanted: &[u8]) -> Option<&'a [u8]> {
        let mut rest = Der(self.rest);
        let extensions = loop {
            match rest.any()? {
                (EXTENSIONS, contents) => break contents,
                _ => continue,
            }
        };
        let mut extensions = Der(Der(extensions).element(SEQUENCE)?);
        loop {
            let mut extension = Der(extensions.element(SEQUENCE)?);
            let id = extension.element(OBJECT_ID)?;
            let _ = extension.element(BOOLEAN); // critical
            let value = extension.element(OCTET_STRING)?;
            if id == wanted {
                return Some(value);
            }
        }
    }
}

/// DNS names, e-mail addresses and URIs; other kinds are passed over.
fn general_names(value: &[u8]) -> Vec<String> {
    let Some(names) = Der(value).element(SEQUENCE) else { return vec![] };
    let mut names = Der(names);
    let mut found = Vec::new();
    while let Some((kind, name)) = names.any() {
        if matches!(kind, EMAIL | DNS | URI)
            && let Some(name) = std::str::from_utf8(name).ok().and_then(whole)
        {
            found.push(name);
        }
    }
    found
}

/// A value as text. Two bytes per character are the one other form that is in use.
fn text(kind: u8, value: &[u8]) -> Option<String> {
    if kind == BMP_STRING {
        let (pairs, odd) = value.as_chunks::<2>();
        let units: Vec<u16> = pairs.iter().map(|pair| u16::from_be_bytes(*pair)).collect();
        return String::from_utf16(&units).ok().filter(|_| odd.is_empty()).as_deref().and_then(whole);
    }
    std::str::from_utf8(value).ok().and_then(whole)
}

/// A name with a NUL inside could be cut short by whoever compares it: no name at all. Nor is one that is empty.
fn whole(name: &str) -> Option<String> {
    (!name.is_empty() && !name.contains('\0')).then(|| name.to_owned())
}

/// RFC 2253, section 2.4, as OpenSSL does it.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let last = text.chars().count() - 1;
    for (i, c) in text.chars().enumerate() {
        match c {
            ',' | '+' | '"' | '\\' | '<' | '>' | ';' => out.extend(['\\', c]),
            '#' if i == 0 => out.push_str("\\#"),
            ' ' if i == 0 || i == last => out.push_str("\\ "),
            c if c.is_ascii_control() => {
                let _ = write!(out, "\\{:02X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}

/// An object identifier in numbers.
fn dotted(id: &[u8]) -> Option<String> {
    let mut numbers = Vec::new();
    let mut number: u64 = 0;
    for byte in id {
        number = number.checked_mul(128)?.checked_add(u64::from(byte & 0x7f))?;
        if byte & 0x80 == 0 {
            numbers.push(number);
            number = 0;
        }
    }
    let (first, rest) = numbers.split_first()?;
    let arc = (first / 40).min(2);
    let mut out = format!("{arc}.{}", first - arc * 40);
    for number in rest {
        let _ = write!(out, ".{number}");
    }
    Some(out)
}

/// A value of a kind that is not known: its encoding in hexadecimal.
fn dump(kind: u8, value: &[u8]) -> Option<String> {
    let mut out = format!("#{kind:02X}");
    match u8::try_from(value.len()).ok()? {
        short @ 0..0x80 => write!(out, "{short:02X}").ok()?,
        long => write!(out, "81{long:02X}").ok()?,
    }
    for byte in value {
        let _ = write!(out, "{byte:02X}");
    }
    Some(out)
}

/// Reads DER elements one after the other; just enough of it for the question above.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// Contents of the next element if it has this tag; otherwise nothing is consumed.
    fn element(&mut self, tag: u8) -> Option<&'a [u8]> {
        let before = self.0;
        match self.any() {
            Some((found, contents)) if found == tag => Some(contents),
            _ => {
                self.0 = before;
                None
            }
        }
    }

    fn any(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, mut rest) = rest.split_first()?;
        let length = if first < 0x80 {
            usize::from(first)
        } else {
            let count = usize::from(first & 0x7f);
            if count == 0 || count > 4 {
                return None;
            }
            let (bytes, after) = rest.split_at_checked(count)?;
            rest = after;
            bytes.iter().fold(0, |n, b| n << 8 | usize::from(*b))
        };
        let (contents, after) = rest.split_at_checked(length)?;
        self.0 = after;
        Some((tag, contents))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{DnType, SanType};

    fn certificate(subject: &[(DnType, &str)], alternatives: Vec<SanType>) -> Vec<u8> {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
        params.subject_alt_names = alternatives;
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in subject {
            params.distinguished_name.push(kind.clone(), *value);
        }
        params.self_signed(&key).unwrap().der().to_vec()
    }

    fn alice() -> Vec<u8> {
        let subject = [
            (DnType::CountryName, "CH"),
            (DnType::OrganizationName, "house, \"home\""),
            (DnType::OrganizationalUnitName, "#1 "),
            (DnType::CustomDnType(vec![1, 2, 840, 5]), "x"),
            (DnType::CommonName, "alice"),
        ];
        let alternatives = vec![
            SanType::DnsName("alice.example.com".try_into().unwrap()),
            SanType::IpAddress([10, 0, 0, 1].into()),
            SanType::Rfc822Name("alice@example.com".try_into().unwrap()),
            SanType::URI("spiffe://house/alice".try_into().unwrap()),
        ];
        certificate(&subject, alternatives)
    }

    #[test]
    fn names_are_found() {
        let der = alice();
        assert_eq!(common_name(&der).as_deref(), Some("alice"));
        assert_eq!(names(&der, ClientName::Cn), ["alice"]);
        // as `openssl x509 -noout -subject -nameopt RFC2253` prints it
        assert_eq!(
            names(&der, ClientName::Dn),
            [r##"CN=alice,1.2.840.5=#0C0178,OU=\#1\ ,O=house\, \"home\",C=CH"##]
        );
        assert_eq!(
            names(&der, ClientName::San),
            ["alice.example.com", "alice@example.com", "spiffe://house/alice"]
        );
        let bare = certificate(&[], vec![]);
        for which in [ClientName::Cn, ClientName::Dn, ClientName::San] {
            assert_eq!(names(&bare, which), [""; 0]);
        }
    }

    #[test]
    fn a_name_that_could_be_cut_short_is_none() {
        let der = certificate(&[(DnType::CommonName, "a\0b")], vec![]);
        assert_eq!(common_name(&der), None);
        assert_eq!(names(&der, ClientName::Dn), [""; 0]);
    }

    #[test]
    fn texts_of_two_bytes_per_character() {
        assert_eq!(text(BMP_STRING, b"\0a\0l").as_deref(), Some("al"));
        assert_eq!(text(BMP_STRING, b"\0a\0"), None);
        assert_eq!(text(0x0c, b"\xff"), None);
    }

    #[test]
    fn every_cut_of_a_certificate_is_survived() {
        let der = alice();
        for cut in 0..der.len() {
            for which in [ClientName::Cn, ClientName::Dn, ClientName::San] {
                assert_eq!(names(&der[..cut], which), [""; 0]);
            }
        }
        // and every damage
        for at in 0..der.len() {
            let mut damaged = der.clone();
            damaged[at] ^= 0xff;
            for which in [ClientName::Cn, ClientName::Dn, ClientName::San] {
                let _ = names(&damaged, which);
            }
        }
    }
}
