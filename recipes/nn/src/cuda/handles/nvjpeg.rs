//! nvJPEG, which a build does not need: it is looked for at run time, and its functions are declared here as its header has them
//! (`nvjpeg.h`, versions 12 and 13).

use std::{
    ffi::{c_int, c_uint, c_void},
    mem::forget,
    ptr::null_mut,
};

use libloading::Library;

use super::functions;
use crate::picture::Unit;

/// The versions that have what is called.
const NAMES: [&str; 2] = ["libnvjpeg.so.13", "libnvjpeg.so.12"];

/// `nvjpegStatus_t`; zero is success.
type Status = c_int;

/// `nvjpegBackend_t`.
const BACKENDS: [(c_int, Unit); 2] = [(3, Unit::Engines), (2, Unit::Processors)];
/// `NVJPEG_FLAGS_UPSAMPLING_WITH_INTERPOLATION`: colours of half the resolution as libjpeg makes them whole.
const FANCY: c_uint = 1 << 5;
/// `NVJPEG_OUTPUT_RGBI`: red, green and blue of a pixel beside each other.
const RGB: c_int = 5;

/// `nvjpegImage_t`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Image {
    channels: [*mut c_void; 4],
    pitches: [usize; 4],
}

functions! {
    create: "nvjpegCreateEx"(c_int, *const c_void, *const c_void, c_uint, *mut *mut c_void) -> Status;
    create_state: "nvjpegJpegStateCreate"(*mut c_void, *mut *mut c_void) -> Status;
    destroy_state: "nvjpegJpegStateDestroy"(*mut c_void) -> Status;
    begin: "nvjpegDecodeBatchedInitialize"(*mut c_void, *mut c_void, c_int, c_int, c_int) -> Status;
    information: "nvjpegGetImageInfo"(*mut c_void, *const u8, usize, *mut c_int, *mut c_int, *mut c_int, *mut c_int) -> Status;
    decode: "nvjpegDecodeBatched"(*mut c_void, *mut c_void, *const *const u8, *const usize, *mut Image, *mut c_void) -> Status;
}

/// The library and its handle, which is kept for as long as the process lives.
pub(in crate::cuda) struct NvJpeg {
    functions: Functions,
    handle: *mut c_void,
    pub(in crate::cuda) unit: Unit,
}

// SAFETY: the handle may be used from any thread, by several at once; what may not is in a `State`.
unsafe impl Send for NvJpeg {}
// SAFETY: as above.
unsafe impl Sync for NvJpeg {}

impl NvJpeg {
    /// The library, if there is one that can be used; the device is the calling thread's.
    pub(in crate::cuda) fn load() -> Option<Self> {
        // SAFETY: a library of this name is nvJPEG, whose initialisation asks for nothing.
        let mut found = (NAMES.into_iter()).filter_map(|name| unsafe { Library::new(name) }.ok());
        let library = found.next()?;
        // SAFETY: it is never unloaded, see below.
        let functions = unsafe { Functions::of(&library) }.ok();
        forget(library);
        let functions = functions?;
        let made = BACKENDS.into_iter().find_map(|(backend, unit)| {
            let (mut handle, none) = (null_mut(), std::ptr::null());
            // SAFETY: the handle has a place, and the library allocates by itself.
            let status = unsafe { (functions.create)(backend, none, none, FANCY, &raw mut handle) };
            (status == 0).then_some((handle, unit))
        });
        let (handle, unit) = made?;
        Some(Self {
            functions,
            handle,
            unit,
        })
    }

    /// The pixels that a file's header says it has, across and down, if the library can read it.
    pub(in crate::cuda) fn size(&self, file: &[u8]) -> Option<[usize; 2]> {
        let (mut components, mut sampling) = (0, 0);
        let (mut widths, mut heights) = ([0; 4], [0; 4]);
        // SAFETY: the file is so long, and there is room for what the library says of up to four components.
        let status = unsafe {
            (self.functions.information)(
                self.handle,
                file.as_ptr(),
                file.len(),
                &raw mut components,
                &raw mut sampling,
                widths.as_mut_ptr(),
                heights.as_mut_ptr(),
            )
        };
        let [width, height] = [widths[0], heights[0]].map(|side| usize::try_from(side).ok());
        (status == 0).then_some([width?, height?])
    }
}

/// What one batch at a time is decoded with.
pub(in crate::cuda) struct State {
    raw: *mut c_void,
    destroy: unsafe extern "C" fn(*mut c_void) -> Status,
    /// The files of a batch that it is ready for.
    batch: usize,
}

// SAFETY: it may be used from any thread, by one at a time.
unsafe impl Send for State {}

impl Drop for State {
    fn drop(&mut self) {
        // SAFETY: the library gave it, and whoever used it has waited for what it did.
        let _ = unsafe { (self.destroy)(self.raw) };
    }
}

/// A file, and where its pixels go.
#[derive(Clone, Copy)]
pub(in crate::cuda) struct Job<'a> {
    pub(in crate::cuda) file: &'a [u8],
    /// An address on the device.
    pub(in crate::cuda) to: u64,
    /// Pixels across and down.
    pub(in crate::cuda) size: [usize; 2],
}

impl State {
    /// None where the library refuses; the device is the calling thread's.
    pub(in crate::cuda) fn new(library: &NvJpeg) -> Option<Self> {
        let mut raw = null_mut();
        // SAFETY: the state has a place.
        let status = unsafe { (library.functions.create_state)(library.handle, &raw mut raw) };
        (status == 0).then_some(Self {
            raw,
            destroy: library.functions.destroy_state,
            batch: 0,
        })
    }

    /// Starts decoding files; the device is the calling thread's. False where the library does not decode one of them.
    ///
    /// # Safety
    /// Each is of its size and has room for it, and nobody else uses that, the files or this state until the stream has been waited for.
    pub(in crate::cuda) unsafe fn decode(
        &mut self,
        library: &NvJpeg,
        jobs: &[Job<'_>],
        stream: *mut c_void,
    ) -> bool {
        let functions = &library.functions;
        let Ok(batch) = c_int::try_from(jobs.len()) else {
            return false;
        };
        if self.batch != jobs.len() {
            self.batch = 0;
            // SAFETY: both are the library's. Our threads have enough to do: it takes one.
            let status = unsafe { (functions.begin)(library.handle, self.raw, batch, 1, RGB) };
            if status != 0 {
                return false;
            }
            self.batch = jobs.len();
        }
        let files: Vec<*const u8> = jobs.iter().map(|job| job.file.as_ptr()).collect();
        let lengths: Vec<usize> = jobs.iter().map(|job| job.file.len()).collect();
        let image = |job: &Job<'_>| Image {
            channels: [job.to as *mut c_void, null_mut(), null_mut(), null_mut()],
            pitches: [job.size[0] * 3, 0, 0, 0],
        };
        let mut images: Vec<Image> = jobs.iter().map(image).collect();
        // SAFETY: as many files, lengths and images as were announced; the rest is the caller's to vouch for.
        let status = unsafe {
            (functions.decode)(
                library.handle,
                self.raw,
                files.as_ptr(),
                lengths.as_ptr(),
                images.as_mut_ptr(),
                stream,
            )
        };
        status == 0
    }
}
