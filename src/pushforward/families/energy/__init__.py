"""Energy models: p(x) proportional to exp(-E(x)); an energy, an objective and a sampler, each chosen apart."""
