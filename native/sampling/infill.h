// llama.cpp's "infill": candidates for text between two others, where ending in time matters most.
#pragma once

#include <vector>

#include "sampling/candidate.h"
#include "sampling/chain.h"

namespace trivet {

// Keeps the tokens that end generation where they are likely enough together; else those of them and the
// texts that are likely enough, where a text counts for those that begin with it. Where no text is left: the
// first of the tokens that end generation, or, if that is not possible, the best candidate.
void keep_infill(std::vector<Candidate>& candidates, const Chain& chain, bool end_is_possible);

}  // namespace trivet
