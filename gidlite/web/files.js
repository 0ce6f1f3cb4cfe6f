// @ts-check
// Files: a visitor's photo in, and what was made of it out.

const MOST_PIXELS = 64e6; // of a photo; what is larger may not fit a phone's memory
const SHOWN_PIXELS = 640 * 480; // at which it is shown and saved
const LEAST_SIDE = 16;
const IMAGES = /^image\/(?!svg)/;

/**
 * Return a photo as it is shown, upright; what is no photo is refused in a sentence.
 * @param {Blob} file @param {string} name
 */
export async function read(file, name) {
  const refused = `${name} cannot be read as a photo`;
  if (file.size === 0) throw new Error(`${name} is empty; choose another photo.`);
  if (file.type && !IMAGES.test(file.type)) throw new Error(`${refused}; choose a JPEG, PNG or WebP.`);
  const [width, height] = await sides(file).catch(() => {
    throw new Error(`${refused} by this browser; save it as a JPEG and try again.`);
  });
  if (width * height > MOST_PIXELS) {
    const megapixels = Math.round((width * height) / 1e6);
    throw new Error(`${name} has ${megapixels} megapixels; reduce it to ${MOST_PIXELS / 1e6} or less.`);
  }
  if (Math.min(width, height) < LEAST_SIDE) {
    throw new Error(`${name} has ${width}×${height} pixels; choose one with sides of ${LEAST_SIDE} or more.`);
  }
  const scale = Math.min(1, Math.sqrt(SHOWN_PIXELS / (width * height)));
  const [resizeWidth, resizeHeight] = [width, height].map(
    (side) => Math.max(LEAST_SIDE, 2 * Math.round((scale * side) / 2)));
  const options = { resizeWidth, resizeHeight, resizeQuality: /** @type {const} */ ("high") };
  return createImageBitmap(file, options).catch(() => {
    throw new Error(`${refused}: it is damaged; export it again.`);
  });
}

/** Return the width and height of a photo, upright, without decoding it. @param {Blob} file */
async function sides(file) {
  const address = URL.createObjectURL(file);
  try {
    const image = new Image();
    await new Promise((resolve, reject) => {
      Object.assign(image, { onload: resolve, onerror: reject, src: address });
    });
    return [image.naturalWidth, image.naturalHeight];
  } finally {
    URL.revokeObjectURL(address);
  }
}

/**
 * Return a name under which any system can store what was made of a photo: at most 120 bytes of
 * the photo's own, without folders, suffix, and what is invisible or turns text around.
 * @param {string} name
 * @param {string} suffix such as _loop.mp4
 */
export function fileName(name, suffix) {
  const last = name.split(/[\\/]/).pop() ?? "";
  const visible = last.replace(/\.[^.]{1,5}$/, "").replace(/\s+/g, " ")
    // But for the joiner and the tags that make up an emoji.
    .replace(/[\p{Cc}\p{Cs}<>:"|?*\u061c\u200b\u200c\u200e\u200f\u202a-\u202e]/gu, "")
    .replace(/[\u2060-\u206f\ufeff]/g, "");
  const letters = [...visible.replace(/^[. ]+/, "")];
  while (new TextEncoder().encode(letters.join("")).length > 120) letters.pop();
  const stem = letters.join("").replace(/[. \u200d]+$/, "");
  return (/^(|con|prn|aux|nul|com\d|lpt\d)$/i.test(stem) ? "photo" : stem) + suffix;
}

/** Start the download of a file. @param {Blob} blob @param {string} filename */
export function offer(blob, filename) {
  const href = URL.createObjectURL(blob);
  Object.assign(document.createElement("a"), { href, download: filename }).click();
  // Some browsers look it up only later.
  setTimeout(() => URL.revokeObjectURL(href), 10_000);
}
