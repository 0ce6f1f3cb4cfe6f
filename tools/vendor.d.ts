// Packages of others are not checked; of their types, the names that the page uses are known.
declare module "*/ort.wasm.min.mjs" {
  export const env: any, Tensor: any, InferenceSession: any;
  export type Tensor = any;
  export type InferenceSession = any;
}
declare module "*/mediabunny.min.mjs";
declare module "*/gifenc.esm.js";
