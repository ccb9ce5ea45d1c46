//! Tiny ONNX files, written byte by byte (protocol buffers; field numbers from onnx.proto).

/// A length-delimited field.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut length = bytes.len();
    while length >= 128 {
        out.push(u8::try_from(length % 128).unwrap() | 128);
        length /= 128;
    }
    out.push(u8::try_from(length).unwrap());
    out.extend_from_slice(bytes);
    out
}

/// A varint field below 128.
fn number(field: u8, value: u8) -> Vec<u8> {
    vec![field << 3, value]
}

fn join(parts: &[Vec<u8>]) -> Vec<u8> {
    parts.concat()
}

/// A value called `name` of shape `[2]`, or `[N, 2]`.
fn value_info(name: &str, dtype: u8, batched: bool) -> Vec<u8> {
    let mut dims = if batched { field(1, &field(2, b"N")) } else { Vec::new() };
    dims.extend(field(1, &number(1, 2)));
    let tensor = join(&[number(1, dtype), field(2, &dims)]);
    join(&[field(1, name.as_bytes()), field(2, &field(1, &tensor))])
}

/// A network with one node `y = OPERATOR(x, weights)`, where weights lie in the file `location`, or inside when `None`.
pub(crate) fn network(operator: &str, domain: &str, location: Option<&str>, dtype: u8) -> Vec<u8> {
    model(operator, domain, location, dtype, false)
}

/// `y = x + [1, 2]` for `f32[N, 2]`.
pub(crate) fn rows() -> Vec<u8> {
    model("Add", "", None, 1, true)
}

fn model(operator: &str, domain: &str, location: Option<&str>, dtype: u8, batched: bool) -> Vec<u8> {
    let data: Vec<u8> = [1.0_f32, 2.0].iter().flat_map(|value| value.to_le_bytes()).collect();
    let mut weights = join(&[number(1, 2), number(2, 1), field(8, b"weights")]);
    match location {
        None => weights.extend(field(9, &data)),
        Some(location) => {
            weights.extend(field(13, &join(&[field(1, b"location"), field(2, location.as_bytes())])));
            weights.extend(number(14, 1));
        }
    }
    let node = join(&[
        field(1, b"x"),
        field(1, b"weights"),
        field(2, b"y"),
        field(4, operator.as_bytes()),
        field(7, domain.as_bytes()),
    ]);
    let graph = join(&[
        field(1, &node),
        field(2, b"graph"),
        field(5, &weights),
        field(11, &value_info("x", dtype, batched)),
        field(12, &value_info("y", dtype, batched)),
    ]);
    let opset = number(2, 13);
    let mut imports = vec![field(8, &opset)];
    if !domain.is_empty() {
        imports.push(field(8, &join(&[field(1, domain.as_bytes()), number(2, 1)])));
    }
    join(&[number(1, 8), field(7, &graph), imports.concat()])
}
