//! XMP: a document of RDF in XML, of which one property matters here. It is looked for as Pillow does, without an XML reader:
//! what stands there in another form turns no image anywhere.

/// The orientation's number, from an attribute or an element.
pub(super) fn orientation(xmp: &[u8]) -> Option<u64> {
    const NAME: &[u8] = b"tiff:Orientation";
    memchr::memmem::find_iter(xmp, NAME)
        .filter_map(|at| {
            let value = &xmp[at + NAME.len()..];
            let value = value
                .strip_prefix(b"=\"")
                .or_else(|| value.strip_prefix(b">"))?;
            value.first().filter(|byte| byte.is_ascii_digit())
        })
        .map(|digit| u64::from(digit - b'0'))
        .next()
}
