//! Service-account tokens: JSON web tokens (RFC 7519), signed with Ed25519 (RFC 8037).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use rcgen::{KeyPair, SigningKey};
use rustls::SignatureScheme;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::SignatureVerificationAlgorithm;
use serde_json::{Value, json};

/// Who issued a token, and whom it is for if the request names nobody.
pub(crate) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// Signs and verifies tokens.
pub(crate) struct TokenKey {
    key: KeyPair,
    verifier: &'static dyn SignatureVerificationAlgorithm,
}

/// The object a token was bound to: the token ends with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BoundObject {
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) uid: String,
}

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claims {
    pub(crate) namespace: String,
    pub(crate) account: String,
    pub(crate) uid: String,
    pub(crate) audiences: Vec<String>,
    pub(crate) expires: i64,
    pub(crate) bound: Option<BoundObject>,
}

impl TokenKey {
    /// A key from PKCS #8 PEM; `None` when it is not an Ed25519 key.
    pub(crate) fn from_pem(pem: &str) -> Option<Self> {
        let verifier = default_provider()
            .signature_verification_algorithms
            .mapping
            .iter()
            .find(|(scheme, _)| *scheme == SignatureScheme::ED25519)
            .and_then(|(_, algorithms)| algorithms.first().copied())?;
        let key = KeyPair::from_pem(pem).ok()?;
        (key.algorithm() == &rcgen::PKCS_ED25519).then_some(Self { key, verifier })
    }

    /// The token that says `claims`.
    pub(crate) fn sign(&self, claims: &Claims, now: Timestamp) -> Result<String, rcgen::Error> {
        let mut account = json!({
            "namespace": claims.namespace,
            "serviceaccount": {"name": claims.account, "uid": claims.uid},
        });
        if let Some(bound) = &claims.bound {
            account[bound.kind.to_lowercase()] = json!({"name": bound.name, "uid": bound.uid});
        }
        let payload = json!({
            "iss": ISSUER,
            "sub": format!("system:serviceaccount:{}:{}", claims.namespace, claims.account),
            "aud": claims.audiences,
            "iat": now.as_second(),
            "nbf": now.as_second(),
            "exp": claims.expires,
            "jti": uuid::Uuid::new_v4().to_string(),
            "kubernetes.io": account,
        });
        let header = json!({"alg": "EdDSA", "typ": "JWT"});
        let signed = format!("{}.{}", encode(&header), encode(&payload));
        let signature = self.key.sign(signed.as_bytes())?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// What a token says, if its signature is ours and it is valid now for the API.
    pub(crate) fn verify(&self, token: &str, now: Timestamp) -> Option<Claims> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, payload) = signed.split_once('.')?;
        if decode(header)?["alg"] != "EdDSA" {
            return None;
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        self.verifier
            .verify_signature(self.key.public_key_raw(), signed.as_bytes(), &signature)
            .ok()?;
        let payload = decode(payload)?;
        let second = now.as_second();
        let expires = payload["exp"].as_i64()?;
        if payload["iss"] != ISSUER || expires <= second || payload["nbf"].as_i64()? > second + 60 {
            return None;
        }
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let account = &payload["kubernetes.io"];
        let bound = ["pod", "secret", "node"].into_iter().find_map(|kind| {
            let reference = account.get(kind)?;
            Some(BoundObject {
                kind: kind.to_owned(),
                name: text(&reference["name"])?,
                uid: text(&reference["uid"])?,
            })
        });
        let audiences: Vec<String> = payload["aud"].as_array()?.iter().filter_map(text).collect();
        Some(Claims {
            namespace: text(&account["namespace"])?,
            account: text(&account["serviceaccount"]["name"])?,
            uid: text(&account["serviceaccount"]["uid"])?,
            audiences,
            expires,
            bound,
        })
    }
}

fn encode(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

fn decode(text: &str) -> Option<Value> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> TokenKey {
        let pem = KeyPair::generate_for(&rcgen::PKCS_ED25519)
            .unwrap()
            .serialize_pem();
        TokenKey::from_pem(&pem).unwrap()
    }

    #[test]
    fn only_own_unexpired_unchanged_tokens_are_valid() {
        let (ours, theirs) = (key(), key());
        let now = Timestamp::from_second(1_000_000).unwrap();
        let claims = Claims {
            namespace: "default".into(),
            account: "web".into(),
            uid: "1".into(),
            audiences: vec![ISSUER.into()],
            expires: 1_003_600,
            bound: Some(BoundObject {
                kind: "pod".into(),
                name: "web-1".into(),
                uid: "2".into(),
            }),
        };
        let token = ours.sign(&claims, now).unwrap();
        assert_eq!(ours.verify(&token, now), Some(claims.clone()));
        assert_eq!(theirs.verify(&token, now), None);
        assert_eq!(
            ours.verify(&token, Timestamp::from_second(1_003_600).unwrap()),
            None
        );
        let parts: Vec<&str> = token.split('.').collect();
        let mut payload = decode(parts[1]).unwrap();
        payload["exp"] = 9_999_999.into();
        let forged = format!("{}.{}.{}", parts[0], encode(&payload), parts[2]);
        assert_eq!(ours.verify(&forged, now), None);
        let none = format!("{}.{}.", encode(&json!({"alg": "none"})), parts[1]);
        assert_eq!(ours.verify(&none, now), None);
        assert_eq!(ours.verify("a.b.c", now), None);
        assert_eq!(ours.verify("", now), None);
    }
}
