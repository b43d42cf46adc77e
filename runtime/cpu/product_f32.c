/* Matrix products in float32. */
#define FLAMEC_PRODUCT 32
#include "flamec_product.h"
