/** What a .nic file says about itself. */
export interface NicInfo {
  /** Pixels. */
  width: number;
  height: number;
  /** Of the decoded picture. */
  mode: "L" | "LA" | "RGB" | "RGBA";
  /** 1 to 100, as given to the encoder. */
  quality: number;
  /** 0 to 960. */
  qualityIndex: number;
  /** 16 hex digits. */
  modelId: string;
  tiles: number;
  /** Length of the file. */
  bytes: number;
  /** Bits per pixel of the whole file. */
  bpp: number;
  hasAlpha: boolean;
  /** Bytes of each kind that is there, by the names ICC, EXIF and XMP. */
  metadata: Record<string, number>;
  /** Bits per sample of the source picture. */
  sourceDepth: number;
  version: number;
  /** The network of another project that the file needs, or empty. */
  architecture: string;
  /** The picture is exact. */
  lossless: boolean;
  /** What the lossy picture, which comes first, takes of a lossless file, and all of another. */
  firstBytes: number;
}

/** A part of a picture, in pixels. */
export interface Region {
  x: number;
  y: number;
  width: number;
  height: number;
}

/**
 * What went wrong, in one sentence. `name` is the class that the Python package raises: TruncatedError, ChecksumError,
 * UnsupportedVersionError, NicFormatError, ModelNotFoundError, ModelMismatchError; RangeError for a region outside the
 * picture or a realism that is not possible, MemoryError, and Error for a worker that could not start.
 */
export class NicError extends Error {}

export interface DecodeOptions {
  region?: Region;
  /** Of a lossless file, false gives the lossy picture that it starts with, and does not read further. */
  lossless?: boolean;
  /**
   * How much likely but invented detail is added, 0 to 1; by default 0, the closest picture. Above 0 the weights of the
   * generative decoder are fetched; a lossless file needs `lossless: false`.
   */
  realism?: number;
}

/**
 * The pixels of a .nic file, or of a region of it, computed in a worker: those of the file, in the colours of its profile
 * (`info(bytes).metadata.ICC`), which ImageData does not hold.
 * Rejects with NicError for a damaged file, or a model that the page lacks.
 */
export function decode(source: ArrayBuffer | ArrayBufferView | Blob, options?: DecodeOptions): Promise<ImageData>;

/**
 * The same pixels as a PNG with the colour profile of the file, if it has one: in an `<img>`, a browser shows them in the
 * right colours. It is not compressed.
 */
export function toPng(source: ArrayBuffer | ArrayBufferView | Blob, options?: DecodeOptions): Promise<Blob>;

/** What a whole file says about itself; no network runs. Throws NicError for a damaged file. */
export function info(bytes: ArrayBuffer | ArrayBufferView): NicInfo;

/** Fetches the decoder and the weights of a model before a picture needs them; with realism above 0, those for it too. */
export function preload(modelId: string, options?: { realism?: number }): Promise<void>;

/**
 * Call it before anything else.
 * weights: the folder that holds MODELID.safetensors, by default `weights/` beside nic.js.
 * generator: the file of the generative decoder, by default MODELID-realism.safetensors in that folder.
 * threads: most threads of a page that is cross-origin isolated, by default its cores up to 8; other pages have one.
 */
export function configure(options: { weights?: string | URL; generator?: string | URL; threads?: number }): void;

/** `<nic-img src alt loading width height realism>`: as `<img>`, with the events load and error. */
export class NicImage extends HTMLElement {
  src: string;
  alt: string;
  loading: "eager" | "lazy";
  /** As in DecodeOptions; another value decodes the picture again. */
  realism: number;
  /** Pixels of the file, as soon as its header has arrived; 0 before. */
  readonly naturalWidth: number;
  readonly naturalHeight: number;
  readonly complete: boolean;
  /** Of the last error event. */
  readonly error: NicError | null;
  /** Loads the picture now, even if it is far from the window. */
  show(): Promise<void>;
}

declare global {
  interface HTMLElementTagNameMap {
    "nic-img": NicImage;
  }
}
