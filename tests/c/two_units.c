/* The header in a second translation unit: nothing in it is defined twice. */
#include <deepseek/deepseek.h>

uint32_t version_in_second_unit(void);

uint32_t version_in_second_unit(void)
{
    return deepseek_version_number();
}
