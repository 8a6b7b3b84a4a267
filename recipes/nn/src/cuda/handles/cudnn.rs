//! cuDNN, which a build does not need: it is looked for at run time, and its functions are declared here as its headers have
//! them (`cudnn_graph.h`, from version 8 on).

use std::{
    ffi::{CStr, c_char, c_int, c_void},
    mem::forget,
    ptr::{from_ref, null_mut},
};

use libloading::Library;

use super::{functions, words::value};

/// The versions that have what is called.
const NAMES: [&str; 2] = ["libcudnn.so.9", "libcudnn.so.8"];

/// `cudnnStatus_t`; zero is success.
pub(super) type Status = c_int;
pub(super) type Handle = *mut c_void;
pub(super) type Raw = *mut c_void;

functions! {
    text: "cudnnGetErrorString"(Status) -> *const c_char;
    create: "cudnnCreate"(*mut Handle) -> Status;
    set_stream: "cudnnSetStream"(Handle, *mut c_void) -> Status;
    make: "cudnnBackendCreateDescriptor"(c_int, *mut Raw) -> Status;
    end: "cudnnBackendDestroyDescriptor"(Raw) -> Status;
    finish: "cudnnBackendFinalize"(Raw) -> Status;
    set: "cudnnBackendSetAttribute"(Raw, c_int, c_int, i64, *const c_void) -> Status;
    get: "cudnnBackendGetAttribute"(Raw, c_int, c_int, i64, *mut i64, *mut c_void) -> Status;
    execute: "cudnnBackendExecute"(Handle, Raw, Raw) -> Status;
}

/// The library and its handle. Errors are its own words.
pub(in crate::cuda) struct Cudnn {
    pub(super) functions: Functions,
    pub(super) handle: Handle,
}

// SAFETY: the handle may be used from any thread, by one at a time.
unsafe impl Send for Cudnn {}

/// Something in the library's words.
pub(in crate::cuda) struct Descriptor {
    pub(super) raw: Raw,
    end: unsafe extern "C" fn(Raw) -> Status,
}

// SAFETY: it is plain memory of the library's, which nobody writes once it is finished.
unsafe impl Send for Descriptor {}
// SAFETY: as above.
unsafe impl Sync for Descriptor {}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: the library gave it, and nobody uses it any more.
        let _ = unsafe { (self.end)(self.raw) };
    }
}

/// What an attribute is set to.
pub(super) enum Value<'a> {
    Ints(&'a [i64]),
    Float(f32),
    /// A number of an enumeration, and which that is.
    Of(c_int, c_int),
    Handle(Handle),
    Descriptor(&'a Descriptor),
    Pointers(&'a [*mut c_void]),
}

impl Cudnn {
    /// The library, if there is one that can be used; the device is the calling thread's.
    pub(in crate::cuda) fn load() -> Option<Self> {
        // SAFETY: a library of this name is cuDNN, whose initialisation asks for nothing.
        let mut found = (NAMES.into_iter()).filter_map(|name| unsafe { Library::new(name) }.ok());
        let library = found.next()?;
        // SAFETY: it is never unloaded, see below.
        let functions = unsafe { Functions::of(&library) }.ok();
        forget(library);
        let functions = functions?;
        let mut handle = null_mut();
        // SAFETY: the handle has a place.
        let created = unsafe { (functions.create)(&raw mut handle) };
        (created == 0).then_some(Self { functions, handle })
    }

    /// A success, or what the library says of it.
    pub(super) fn result(&self, status: Status) -> Result<(), String> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: the library has a constant text for any number.
        let text = unsafe { CStr::from_ptr((self.functions.text)(status)) };
        Err(text.to_string_lossy().into_owned())
    }

    pub(super) fn make(&self, kind: c_int) -> Result<Descriptor, String> {
        let mut raw = null_mut();
        // SAFETY: the descriptor has a place.
        self.result(unsafe { (self.functions.make)(kind, &raw mut raw) })?;
        let end = self.functions.end;
        Ok(Descriptor { raw, end })
    }

    pub(super) fn set(
        &self,
        of: &Descriptor,
        attribute: c_int,
        value: Value<'_>,
    ) -> Result<(), String> {
        let (kind, count, values): (_, _, *const c_void) = match &value {
            Value::Ints(ints) => (value::INT64, ints.len(), ints.as_ptr().cast()),
            Value::Float(float) => (value::FLOAT, 1, from_ref(float).cast()),
            Value::Of(kind, number) => (*kind, 1, from_ref(number).cast()),
            Value::Handle(handle) => (value::HANDLE, 1, from_ref(handle).cast()),
            Value::Descriptor(one) => (value::DESCRIPTOR, 1, from_ref(&one.raw).cast()),
            Value::Pointers(all) => (value::POINTER, all.len(), all.as_ptr().cast()),
        };
        let count = count as i64;
        // SAFETY: so many values of the kind, which are read before the call returns.
        self.result(unsafe { (self.functions.set)(of.raw, attribute, kind, count, values) })
    }

    /// Reads so many values of an attribute at most, and tells how many there were.
    ///
    /// # Safety
    /// The library's values of this kind are `T`.
    pub(super) unsafe fn get<T>(
        &self,
        of: &Descriptor,
        (attribute, kind): (c_int, c_int),
        values: &mut [T],
    ) -> Result<usize, String> {
        let (most, to) = (values.len() as i64, values.as_mut_ptr().cast());
        let mut count = 0;
        // SAFETY: there is a place for so many.
        let got =
            unsafe { (self.functions.get)(of.raw, attribute, kind, most, &raw mut count, to) };
        self.result(got)?;
        Ok((count.max(0) as usize).min(values.len()))
    }

    pub(super) fn finish(&self, descriptor: Descriptor) -> Result<Descriptor, String> {
        // SAFETY: the descriptor is there.
        self.result(unsafe { (self.functions.finish)(descriptor.raw) })?;
        Ok(descriptor)
    }
}
