// A GGUF file, or a set of split ones, as a weight source with the names, shapes and order of a Hugging Face
// checkpoint.
//
//   token_embd.weight        model.embed_tokens.weight      blk.N.attn_output.weight  …self_attn.o_proj.weight
//   blk.N.attn_norm.weight   …input_layernorm.weight        blk.N.ffn_norm.weight     …post_attention_layernorm.weight
//   blk.N.attn_q.weight      …self_attn.q_proj.weight       blk.N.ffn_gate.weight     …mlp.gate_proj.weight
//   blk.N.attn_q.bias        …self_attn.q_proj.bias         blk.N.ffn_up.weight       …mlp.up_proj.weight
//   blk.N.attn_k, attn_v     …self_attn.k_proj, v_proj      blk.N.ffn_down.weight     …mlp.down_proj.weight
//   output_norm.weight       model.norm.weight              output.weight             lm_head.weight
//
// F32, F16 and BF16 are read as they are stored; quantised types are float32 values, dequantised block by block in the
// range that is asked for, and name their type in WeightInfo::stored_as. Files of the architecture "llama" hold the
// rows of q and k in the order of another RoPE pairing (`permute` of LlamaModel in llama.cpp's convert_hf_to_gguf.py):
// within each head, row 2i + s of the file is row s·d/2 + i of the checkpoint. They are read in the checkpoint's order.
//
// Every weight of the operation table must be there in its shape. A tensor that the table does not know, of a layer or
// as output.bias, would change the forward pass, and is refused; others are left aside with a note.
#pragma once

#include <filesystem>
#include <memory>

#include "harness/model/noted_source.h"

namespace qdiff::model {

// Whether the name says so, or the first bytes of the file do: stores of models name their files by a hash.
bool is_gguf(const std::filesystem::path& path);

// `path` is a GGUF file; of a split set (NAME-00001-of-00004.gguf), the first. Throws qdiff::InputError.
std::unique_ptr<NotedSource> open_gguf(const std::filesystem::path& path);

}  // namespace qdiff::model
