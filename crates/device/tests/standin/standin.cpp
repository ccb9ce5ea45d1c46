// What all parts of the stand-in use: the lock, the seed's chances, settings from the environment, and the end of the
// process where something does harm. It stands in for nothing by itself.

#include "standin.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>

std::recursive_mutex everything;

void harm(const char* format, ...)
{
    char text[600];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    fprintf(stderr, "harm (seed %llu): %s\n", (unsigned long long)setting("STANDIN_SEED", 0), text);
    abort();
}

uint64_t setting(const char* name, uint64_t otherwise)
{
    const char* text = getenv(name);
    return text ? strtoull(text, nullptr, 10) : otherwise;
}

uint64_t chance(uint64_t below)
{
    // Splitmix (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
    static uint64_t state = (setting("STANDIN_SEED", 0) + 1) * 0xd1342543de82ef95u;
    uint64_t mixed = state += 0x9e3779b97f4a7c15u;
    mixed = (mixed ^ mixed >> 30) * 0xbf58476d1ce4e5b9u;
    mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111ebu;
    return below == 0 ? 0 : (mixed ^ mixed >> 31) % below;
}
