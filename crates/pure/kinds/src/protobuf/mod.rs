//! Protobuf bodies as documents: kubectl's `create` verbs send nothing else.
//!
//! The types of fields come from the schemas; what protobuf adds to them are the field
//! numbers in `numbers`. A field without a number there is refused, never dropped.
//!
//! Source: "Kubernetes protobuf encoding" in the API concepts of Kubernetes'
//! documentation, and the protobuf wire format.

mod numbers;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use self::numbers::{INLINE, MAY_BE_EMPTY, MAY_BE_ZERO, fields};
use crate::base64;
use crate::schema::{Definition, Type, Types, types};

/// What every body of `application/vnd.kubernetes.protobuf` begins with.
const MAGIC: &[u8] = b"k8s\0";
/// Messages within messages; a document has fewer than ten.
const DEPTH: usize = 32;

/// Why a body could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    /// The bytes are not protobuf, or end early.
    #[error("the body is not well-formed application/vnd.kubernetes.protobuf: {0}")]
    Malformed(&'static str),
    /// The kind is not one that is understood as protobuf.
    #[error("{api_version} {kind} is not understood as protobuf: send application/json")]
    Kind {
        /// `apiVersion` of the body.
        api_version: String,
        /// `kind` of the body.
        kind: String,
    },
    /// The body has a field that is not understood as protobuf.
    #[error("field {number} of {message} is not understood as protobuf: send application/json")]
    Field {
        /// The message's Go name.
        message: String,
        /// The field's number.
        number: u32,
    },
}

type Result<T> = std::result::Result<T, ProtobufError>;

/// Reads a body of media type `application/vnd.kubernetes.protobuf` into the document it
/// stands for, `apiVersion` and `kind` set.
///
/// # Errors
/// When the bytes are malformed, or say something this crate has no field number for.
pub fn decode_protobuf(body: &[u8]) -> Result<Value> {
    let envelope = body
        .strip_prefix(MAGIC)
        .ok_or(ProtobufError::Malformed("it does not begin with k8s\\0"))?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for field in Wire(envelope) {
        match field? {
            (1, Content::Bytes(meta)) => {
                for field in Wire(meta) {
                    match field? {
                        (1, Content::Bytes(text)) => api_version = string(text)?,
                        (2, Content::Bytes(text)) => kind = string(text)?,
                        _ => {}
                    }
                }
            }
            (2, Content::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    let types = types();
    // DeleteOptions belong to every group.
    let group = if kind == "DeleteOptions" { "" } else { group };
    let Some(root) = types.root_of(group, version, &kind) else {
        return Err(ProtobufError::Kind { api_version, kind });
    };
    let mut document = message(raw, root, types, DEPTH)?;
    document.insert("apiVersion".to_owned(), api_version.into());
    document.insert("kind".to_owned(), kind.into());
    Ok(Value::Object(document))
}

fn message(bytes: &[u8], at: u32, types: &Types, depth: usize) -> Result<Map<String, Value>> {
    let definition = types.definition(at);
    let depth = depth
        .checked_sub(1)
        .ok_or(ProtobufError::Malformed("it is nested too deep"))?;
    let mut out = Map::new();
    take_fields(
        &mut out,
        bytes,
        definition,
        message_name(definition),
        types,
        depth,
    )?;
    out.retain(|name, value| says_something(name, value));
    Ok(out)
}

/// The name under which a type's fields are numbered.
fn message_name(definition: &Definition) -> &str {
    match fields(&definition.name) {
        Some(_) => &definition.name,
        None => definition.short_name(),
    }
}

/// Reads the fields of `message` into a document of the type `definition`.
fn take_fields(
    out: &mut Map<String, Value>,
    bytes: &[u8],
    definition: &Definition,
    message: &str,
    types: &Types,
    depth: usize,
) -> Result<()> {
    let known = fields(message).unwrap_or(&[]);
    for field in Wire(bytes) {
        let (number, content) = field?;
        let name = known.iter().find(|(known, _)| *known == number);
        let inline = name.and_then(|(_, name)| name.strip_prefix(INLINE));
        if let Some(inline) = inline {
            take_fields(out, content.bytes()?, definition, inline, types, depth)?;
            continue;
        }
        let expected = name.and_then(|(_, name)| Some((*name, definition.field(name)?)));
        let Some((name, expected)) = expected else {
            return Err(ProtobufError::Field {
                message: message.rsplit('.').next().unwrap_or(message).to_owned(),
                number,
            });
        };
        put(out, name, expected, content, types, depth)?;
    }
    Ok(())
}

/// Go's encoder writes the zero of every field that is no pointer; JSON leaves it out.
fn says_something(name: &str, value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(truth) => *truth || MAY_BE_ZERO.contains(&name),
        Value::Number(number) => number.as_i64() != Some(0) || MAY_BE_ZERO.contains(&name),
        Value::String(text) => !text.is_empty(),
        Value::Array(_) => true,
        Value::Object(map) => !map.is_empty() || MAY_BE_EMPTY.contains(&name),
    }
}

fn put(
    out: &mut Map<String, Value>,
    name: &str,
    expected: &Type,
    content: Content<'_>,
    types: &Types,
    depth: usize,
) -> Result<()> {
    if let Type::List(items) = expected {
        let item = value(items, content, types, depth)?;
        let list = out.entry(name).or_insert_with(|| json!([]));
        if let Some(list) = list.as_array_mut() {
            list.push(item);
        }
    } else if let Type::Map(values) = expected {
        let (mut key, mut held) = (String::new(), None);
        for field in Wire(content.bytes()?) {
            match field? {
                (1, Content::Bytes(text)) => key = string(text)?,
                (2, content) => held = Some(value(values, content, types, depth)?),
                _ => {}
            }
        }
        let map = out.entry(name).or_insert_with(|| json!({}));
        if let Some(map) = map.as_object_mut() {
            map.insert(key, held.unwrap_or_else(|| json!("")));
        }
    } else {
        let value = value(expected, content, types, depth)?;
        out.insert(name.to_owned(), value);
    }
    Ok(())
}

fn value(expected: &Type, content: Content<'_>, types: &Types, depth: usize) -> Result<Value> {
    Ok(match expected {
        Type::Bool => Value::Bool(content.number()? != 0),
        // Negative numbers of either size are written as 64 bits.
        Type::Int32 | Type::Int64 => json!(content.number()?.cast_signed()),
        Type::Text => string(content.bytes()?)?.into(),
        Type::Bytes => base64::encode(content.bytes()?).into(),
        Type::Time => time(content.bytes()?)?,
        Type::Quantity => match Wire(content.bytes()?).next().transpose()? {
            Some((1, Content::Bytes(text))) => string(text)?.into(),
            _ => Value::Null,
        },
        Type::IntOrString => int_or_string(content.bytes()?)?,
        Type::Object(at) => Value::Object(message(content.bytes()?, *at, types, depth)?),
        Type::Any => match Wire(content.bytes()?).next().transpose()? {
            Some((1, Content::Bytes(raw))) => serde_json::from_slice(raw)
                .map_err(|_| ProtobufError::Malformed("an embedded document is not JSON"))?,
            _ => Value::Null,
        },
        Type::Number | Type::List(_) | Type::Map(_) | Type::ObjectOrElse(_) => {
            return Err(ProtobufError::Malformed("a field is not of its type"));
        }
    })
}

/// `Time`: seconds and nanoseconds since 1970; empty is unset.
fn time(bytes: &[u8]) -> Result<Value> {
    let (mut seconds, mut nanos) = (None, 0);
    for field in Wire(bytes) {
        match field? {
            (1, Content::Number(number)) => seconds = Some(number.cast_signed()),
            (2, Content::Number(number)) => nanos = i32::try_from(number).unwrap_or(0),
            _ => {}
        }
    }
    let Some(seconds) = seconds else {
        return Ok(Value::Null);
    };
    Timestamp::new(seconds, nanos)
        .map(|time| time.to_string().into())
        .map_err(|_| ProtobufError::Malformed("a time is out of range"))
}

/// `IntOrString`: a type (0 number, 1 text), a number, a text.
fn int_or_string(bytes: &[u8]) -> Result<Value> {
    let (mut is_text, mut number, mut text) = (false, 0, String::new());
    for field in Wire(bytes) {
        match field? {
            (1, Content::Number(kind)) => is_text = kind == 1,
            (2, Content::Number(value)) => number = value.cast_signed(),
            (3, Content::Bytes(value)) => text = string(value)?,
            _ => {}
        }
    }
    Ok(if is_text { text.into() } else { number.into() })
}

fn string(bytes: &[u8]) -> Result<String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| ProtobufError::Malformed("a text is not UTF-8"))
}

/// What stands in a field.
#[derive(Clone, Copy, Debug)]
enum Content<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Content<'a> {
    fn number(self) -> Result<u64> {
        match self {
            Content::Number(number) => Ok(number),
            Content::Bytes(_) => Err(ProtobufError::Malformed("a field is not of its type")),
        }
    }

    fn bytes(self) -> Result<&'a [u8]> {
        match self {
            Content::Bytes(bytes) => Ok(bytes),
            Content::Number(_) => Err(ProtobufError::Malformed("a field is not of its type")),
        }
    }
}

/// The fields of a message, in the order in which they stand.
struct Wire<'a>(&'a [u8]);

impl<'a> Iterator for Wire<'a> {
    type Item = Result<(u32, Content<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

impl<'a> Wire<'a> {
    fn field(&mut self) -> Result<(u32, Content<'a>)> {
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3)
            .map_err(|_| ProtobufError::Malformed("a field number is too large"))?;
        let content = match tag & 7 {
            0 => Content::Number(self.varint()?),
            1 => Content::Bytes(self.take(8)?),
            2 => {
                let length = usize::try_from(self.varint()?).unwrap_or(usize::MAX);
                Content::Bytes(self.take(length)?)
            }
            5 => Content::Bytes(self.take(4)?),
            _ => return Err(ProtobufError::Malformed("it has an unknown wire type")),
        };
        Ok((number, content))
    }

    fn varint(&mut self) -> Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(ProtobufError::Malformed("a number is too long"))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(ProtobufError::Malformed("it ends early"))?;
        self.0 = rest;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(number: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, u8::try_from(content.len()).unwrap()];
        out.extend_from_slice(content);
        out
    }

    fn body(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let meta = [bytes(1, api_version.as_bytes()), bytes(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), bytes(1, &meta), bytes(2, raw)].concat()
    }

    #[test]
    fn a_namespace_as_kubectl_sends_it() {
        // Name, and the zeros Go writes: an empty time, spec and status.
        let metadata = [
            bytes(1, b"foo"),
            bytes(2, b""),
            bytes(8, b""),
            vec![7 << 3, 0],
        ]
        .concat();
        let raw = [bytes(1, &metadata), bytes(2, b""), bytes(3, &bytes(1, b""))].concat();
        assert_eq!(
            decode_protobuf(&body("v1", "Namespace", &raw)).unwrap(),
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "foo"}})
        );
    }

    /// What kubectl 1.32 sends for
    /// `create deployment d --image=nginx --port=80 --replicas=0 -- sleep 1`.
    #[test]
    fn a_deployment_as_kubectl_sends_it() {
        let recorded = "\
            6b3873000a150a07617070732f7631120a4465706c6f796d656e7412ba010a1b0a016412001a0022002a0032 \
            00380042005a080a03617070120164128c010800120a0a080a036170701201641a740a1a0a0012001a002200 \
            2a003200380042005a080a03617070120164125612380a056e67696e7812056e67696e781a05736c6565701a \
            01312a00320a0a001000185022002a0042006a007200800100880100900100a201001a00320042004a005200 \
            5800600068008201008a01009a0100c2010022020a00280038001a0c0800100018002000280038001a002200";
        let digits: Vec<u8> = recorded.bytes().filter(|byte| *byte != b' ').collect();
        let body: Vec<u8> = digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect();
        assert_eq!(
            decode_protobuf(&body).unwrap(),
            json!({"apiVersion": "apps/v1", "kind": "Deployment",
                "metadata": {"labels": {"app": "d"}, "name": "d"},
                "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "d"}},
                    "template": {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [
                        {"command": ["sleep", "1"], "image": "nginx", "name": "nginx",
                            "ports": [{"containerPort": 80}]}]}}},
                "status": {"replicas": 0}})
        );
    }

    #[test]
    fn lists_maps_numbers_and_texts() {
        let entry = [bytes(1, b"app"), bytes(2, b"web")].concat();
        let target = [vec![1 << 3, 1], bytes(3, b"http")].concat();
        let port = [vec![3 << 3, 80], bytes(4, &target), vec![5 << 3, 0]].concat();
        let spec = [bytes(1, &port), bytes(2, &entry), bytes(4, b"ClusterIP")].concat();
        let document = decode_protobuf(&body("v1", "Service", &bytes(2, &spec))).unwrap();
        assert_eq!(
            document["spec"],
            json!({"ports": [{"port": 80, "targetPort": "http"}],
                "selector": {"app": "web"}, "type": "ClusterIP"})
        );
        let secret = bytes(2, &[bytes(1, b"k"), bytes(2, b"hi!")].concat());
        let document = decode_protobuf(&body("v1", "Secret", &secret)).unwrap();
        assert_eq!(document["data"], json!({"k": "aGkh"}));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        assert_eq!(
            decode_protobuf(&body("v1", "Unheard", b""))
                .unwrap_err()
                .to_string(),
            "v1 Unheard is not understood as protobuf: send application/json"
        );
        assert_eq!(
            decode_protobuf(&body("v1", "Namespace", &bytes(15, b"")))
                .unwrap_err()
                .to_string(),
            "field 15 of Namespace is not understood as protobuf: send application/json"
        );
        assert_eq!(
            decode_protobuf(b"{}"),
            Err(ProtobufError::Malformed("it does not begin with k8s\\0"))
        );
        assert_eq!(
            decode_protobuf(b"k8s\0\x0a\xff"),
            Err(ProtobufError::Malformed("it ends early"))
        );
    }

    #[test]
    fn every_number_leads_to_a_field_of_a_message() {
        let types = types();
        for (message, known) in numbers::all() {
            // A message that is part of another one has no schema of its own.
            let inline = format!("{INLINE}{message}");
            let holder = numbers::all()
                .iter()
                .find(|(_, known)| known.iter().any(|(_, field)| *field == inline))
                .map_or(*message, |(holder, _)| holder);
            let definition = types.by_name(holder).unwrap_or_else(|| panic!("{message}"));
            for (_, field) in *known {
                let known = match field.strip_prefix(INLINE) {
                    Some(inline) => fields(inline).is_some(),
                    None => definition.field(field).is_some(),
                };
                assert!(known, "{message}.{field}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(tail in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_protobuf(&[MAGIC, &tail].concat());
            let _ = decode_protobuf(&body("apps/v1", "Deployment", &tail[..tail.len().min(100)]));
        }
    }
}
