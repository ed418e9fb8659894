// The clock of the core that runs this thread, from work whose length in cycles is known.
#pragma once

#include <cstdint>

namespace lamina {

// Whether there is such work for this processor: x86-64.
bool counts_cycles();

// Takes so many cycles of the core: dependent additions, which begin when all before is done, and which
// nothing after overlaps. Nothing where counts_cycles() is false.
void spend_cycles(int64_t cycles);

// What two readings of the system's clock are apart at least, with nothing between them: some 0.02 µs.
double clock_reading_us();

// MHz at this moment: 4096 cycles, about a microsecond, held against the system's clock. So short, that right
// after other work it still reads the clock of that work: cores that run wide instructions tick more slowly,
// and go back to their higher clock within 10 µs. What interrupts it makes it read low. 0 where
// counts_cycles() is false.
double core_clock_mhz();

}  // namespace lamina
