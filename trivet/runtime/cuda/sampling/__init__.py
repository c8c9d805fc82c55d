"""The parts of the sampler on the device: `trivet.runtime.cuda.sampler` puts them together."""
